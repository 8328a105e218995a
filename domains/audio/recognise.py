"""`audio/recognise`: what is said, as text; for recordings of any length as utterances and words with times."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_backbones.errors import BadInput

from ..following import Follower
from ..task import Audit, Batch, Evidence, Fitted, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .clips import Clips, Read, clips_of, poisoned, read_all, refuse_silence
from .ctc import BLANK, Problem, frames_needed, greedy, preflight
from .data import SUFFIXES
from .decoding import Decoder
from .items import ClipItems
from .manifests import Entry
from .noises import with_noises
from .recognise_config import RecogniseOptions
from .recognise_items import UtteranceItems, alphabet_of, needed, spellable
from .recognise_model import AudioRecogniser
from .source import found_entries
from .splits import audit_split, make_split
from .text import NORMALISER, Alphabet, error_counts, normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

log = logging.getLogger("cambium.train")
AT_ONCE = 1_500_000  # samples scored at once
LISTED = 8  # problems that a message names
RATES = {"wer": ("word_edits", "words"), "cer": ("char_edits", "chars"), "ser": ("wrong", "one"),
         "substitutions": ("replaced", "words"), "deletions": ("left_out", "words"), "insertions": ("added", "words"),
         "wer_greedy": ("greedy_edits", "words"), "blank_rate": ("blanks", "tokens"),
         "too_short": ("short", "one")}  # fmt: skip


def listed(problems: list[Problem]) -> str:
    """Problems as one sentence each, the first few."""
    said = "; ".join(f"{p.name}: {p.kind} ({p.meaning})" for p in problems[:LISTED])
    return said + (f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else "")


def text_evidence(rows: Int[np.ndarray, "n"], references: list[str], heard: list[str], **extra: Any) -> Evidence:
    """A row per utterance: its edits, its units, and ``extra`` columns."""
    counts = [error_counts(r, h) for r, h in zip(references, heard, strict=True)]
    columns = {name: np.array([float(c[name]) for c in counts]) for name in counts[0]}
    columns |= {"wrong": (columns["word_edits"] > 0).astype(float), "one": np.ones(len(rows))}
    return Evidence(np.asarray(rows, np.int64), {**columns, "case": rows.astype(np.float64), **extra})


class Recognise:
    """Text of speech by connectionist temporal classification. See domains.task.Task."""

    name: ClassVar[str] = "audio/recognise"
    drift_pieces: ClassVar[bool] = True  # windows of a recording
    summary: ClassVar[str] = "What is said, as text with times, in recordings of any length."
    Config: ClassVar[type[TaskConfig]] = RecogniseOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30, "batch_size": 16, "lr": 2e-3, "weight_decay": 0.01, "warmup": 0.1, "threads": 1,
    }  # fmt: skip
    default_preset: ClassVar[str] = "speech_squeezeformer"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = {
        "wer": MetricFact("1", "lower", f"word edits over words of the corpus, texts as {NORMALISER} has them"),
        "cer": MetricFact("1", "lower", "the same of characters"),
        "ser": MetricFact("1", "lower", "share of utterances with any word wrong"),
        "substitutions": MetricFact("1", "lower", "words replaced, over words"),
        "deletions": MetricFact("1", "lower", "words left out, over words"),
        "insertions": MetricFact("1", "lower", "words added, over words"),
        "wer_greedy": MetricFact("1", "lower", "wer with the best label of every token in place of the decoder"),
        "blank_rate": MetricFact("1", "none", "share of tokens that say nothing; near 1, training has collapsed"),
        "too_short": MetricFact("1", "lower", "share of utterances with too few tokens to spell their text"),
    }
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    drift_part: ClassVar[str] = "val"  # training items are varied

    def __init__(self, config: RecogniseOptions) -> None:
        self.config = config

    # ------------------------------------------------------------------------------ data

    def open(self, source: str) -> Clips:
        """Recordings with normalised transcripts. Raises BadInput; what ``preflight`` skips is listed in the facts."""
        from .recognise_predicting import made_utterances

        licence, skipped = "simulated, free of rights", list[Problem]()
        made = made_utterances(self.config, source, self.config.rate)
        if made is not None:
            licence = "CC BY-SA 4.0, made from FSDD" if source != "simulated" else licence
            rate, read = made[0].file.rate, [_normal(r) for r in made]
        else:
            entries, licence = found_entries(source, self.config)
            kept = self._with_text(source, entries, skipped)
            rate, found = read_all(kept, self.config, source)
            read = [_normal(r) for r in refuse_silence(found, self.config.silence, source)]
        data = with_noises(clips_of(read, rate, source, licence), self.config)
        words = Counter(w for text in data.texts for w in (text or "").split())
        facts = {
            **data.manifest.facts, "normaliser": NORMALISER, "words": sum(words.values()), "vocabulary": len(words),
            "skipped": [f"{p.name}: {p.kind}" for p in skipped],
        }  # fmt: skip
        return replace(data, manifest=replace(data.manifest, facts=facts))

    def _with_text(self, source: str, entries: list[Entry], skipped: list[Problem]) -> list[Entry]:
        """Entries with something to say. Raises BadInput for the others, or skips them."""
        bare = [e for e in entries if e.text is None]
        if len(bare) == len(entries):
            raise BadInput(
                f"{bare[0].where}: no text, as of all {len(entries)} clips of {source}. Give a manifest (.csv, .jsonl) "
                "with the columns path and text, or name_pattern with a group named text"
            )
        empty = [e for e in entries if not normalised(e.text or "")]
        skipped += [Problem(e.where, "empty transcript", "there is nothing to say") for e in empty]
        if empty and (self.config.preflight == "refuse" or len(empty) == len(entries)):
            raise BadInput(
                f"{source}: {len(empty)} of {len(entries)} utterances cannot be learned: {listed(skipped)}. Mend them, "
                "or leave them out with --set preflight=skip"
            )
        return [e for e in entries if normalised(e.text or "")]

    def split(self, data: Clips) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: Clips, split: Split) -> list[Audit]:
        said = {p: [data.texts[i] for i in split.parts[p]] for p in ("train", "test")}
        known = float(np.isin(said["test"], said["train"]).mean())
        alphabet = Alphabet.of([t or "" for t in said["train"]], self.config.unit, self.config.pieces)
        hop = data.rate * self.config.front_end.hop_ms / 1000
        rows = [i for p in ("train", "val") for i in spellable(data, split.parts[p], alphabet)]
        room = [len(data.waves[i]) / hop / frames_needed(alphabet.encode(data.texts[i] or "")) for i in rows]
        return [
            *audit_split(data, split),
            Audit(
                "test_texts_in_training", known, None,
                "Share of test transcripts that training has word for word; sentences read by many favour a model.",
            ),
            Audit(
                "frames_per_label", min(room), None,
                "Frames of the tightest training or validation utterance over what its labels need; a preset whose "
                "tokens stand further apart than so many frames cannot spell it.",
            ),
        ]  # fmt: skip

    def poison(self, data: Clips, split: Split) -> Clips:
        """Noise and another text for every test utterance."""
        spoilt = poisoned(data, split.parts["test"])
        texts = list(data.texts)
        for i in split.parts["test"]:
            texts[i] = "\u017e" * 40
        return replace(spoilt, texts=tuple(texts))

    def fit(self, data: Clips, split: Split) -> Fitted:
        """Symbols of the training transcripts, means and deviations of frames. Raises BadInput for what none spells."""
        from .classify import frame_statistics

        rows = split.parts["train"]
        texts = [data.texts[i] or "" for i in rows]
        alphabet, problems = self._alphabet(data, texts), list[Problem]()
        if self.config.symbols is not None:
            problems = preflight([data.names[i] for i in rows], texts, [10**9] * len(rows), alphabet)
            if problems and (self.config.preflight == "refuse" or len(problems) == len(rows)):
                raise BadInput(
                    f"{data.manifest.source}: {len(problems)} of {len(rows)} training utterances cannot be learned: "
                    f"{listed(problems)}. Spell them with symbols={self.config.symbols!r}, or --set preflight=skip"
                )
        if problems:
            log.warning("%d training utterances are left out (preflight=skip): %s", len(problems), listed(problems))
        mean, std = frame_statistics(data, split, self.config)
        return {
            "rate": data.rate, "unit": alphabet.unit, "symbols": list(alphabet.symbols), "normaliser": NORMALISER,
            "mean": mean, "std": std, "longest_s": max(len(data.waves[i]) for i in rows) / data.rate,
            "median_s": float(np.median([len(data.waves[i]) for i in rows])) / data.rate,
            "skipped": len(problems),
        }  # fmt: skip

    def _alphabet(self, data: Clips, texts: list[str]) -> Alphabet:
        given = self.config.symbols
        if given is None or self.config.unit != "characters":
            if given is not None:
                raise BadInput(f"symbols={given!r} names characters; it cannot go with unit={self.config.unit}")
            return Alphabet.of(texts, self.config.unit, self.config.pieces)
        alphabet = Alphabet(tuple(sorted(set(given))))
        unheard = sorted(set(given) - {c for text in texts for c in text})
        if unheard:
            raise BadInput(
                f"{data.manifest.source}: no training transcript holds {unheard} of symbols={given!r}, so nothing can "
                "be learned of them. Leave them out, or add utterances that hold them"
            )
        return alphabet

    # ------------------------------------------------------------------------------ model

    def build(self, fitted: Fitted, preset: Preset) -> AudioRecogniser:
        return AudioRecogniser(fitted, preset, self.config)

    def initialise(self, model: nn.Module, data: Clips, split: Split) -> None:
        """Nothing is set: utterances that have too few tokens for their labels are refused or listed here.

        Raises BadInput.
        """
        assert isinstance(model, AudioRecogniser)
        alphabet, rows = model.alphabet, [i for p in ("train", "val") for i in split.parts[p]]
        frames = [model.tokens_of(len(data.waves[i])) for i in rows]
        found = preflight([data.names[i] for i in rows], [data.texts[i] or "" for i in rows], frames, alphabet)
        short = [p for p in found if p.kind == "too few frames"]
        if not short:
            return
        said = f"{len(short)} of {len(rows)} utterances of training and validation have too few tokens: {listed(short)}"
        if self.config.preflight == "refuse" or len(short) == len(rows):
            raise BadInput(
                f"{data.manifest.source}: {said}. Take a preset with a smaller stride, front_end.hop_ms below "
                f"{self.config.front_end.hop_ms:g}, unit=words or pieces, or leave them out with --set preflight=skip"
            )
        log.warning("%s; the loss leaves them out (preflight=skip)", said)

    def items(self, data: Clips, split: Split, fitted: Fitted, part: Part) -> UtteranceItems:
        """Utterances: those of training that the symbols can spell, else all, spelt as far as symbols go."""
        alphabet, rows = alphabet_of(fitted), split.parts[part]
        if part != "train":
            return UtteranceItems(data, rows, alphabet)
        return UtteranceItems(data, spellable(data, rows, alphabet), alphabet, self.config.augment, self.config.buckets)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Negative log-likelihood per label, and the labels. Utterances with too few tokens weigh nothing."""
        log_p, tokens = model(batch["wave"], batch["length"])
        labels, size = batch["labels"], batch["label_length"]
        fits = tokens >= needed(labels, size)
        if not bool(fits.any()):
            return log_p.sum() * 0.0, torch.zeros((), device=log_p.device)
        cost = F.ctc_loss(log_p[fits].transpose(0, 1), labels[fits], tokens[fits], size[fits], BLANK, "sum")
        weight = size[fits].sum().to(log_p.dtype)
        return cost / weight, weight

    def watch(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Share of tokens that say nothing, and the tokens: what history.json says beside the loss."""
        log_p, tokens = model(batch["wave"], batch["length"])
        real = torch.arange(log_p.shape[1], device=log_p.device) < tokens[:, None]
        return ((log_p.argmax(-1) == BLANK) & real).sum() / real.sum(), real.sum().float()

    def calibrate(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted) -> None:
        """Nothing is calibrated."""

    # ------------------------------------------------------------------------------ scores

    def decoder(self, fitted: Fitted) -> Decoder:
        """From posteriors to text. Raises BadInput where the language model cannot be read."""
        return Decoder.of(alphabet_of(fitted), self.config)

    def posteriors(self, model: nn.Module, items: ClipItems) -> list[Float[np.ndarray, "_ K"]]:
        """Log-probabilities of every utterance's own tokens, in order, in evaluation mode."""
        model.eval()
        device = next(model.parameters()).device
        found: dict[int, Any] = {}
        with torch.no_grad():
            for indices in items.by_length(AT_ONCE):
                batch = items.batch(indices)
                log_p, tokens = model(batch["wave"].to(device), batch["length"].to(device))
                rows = log_p.cpu().double().numpy()
                found.update({i: row[:n] for i, row, n in zip(indices, rows, tokens.tolist(), strict=True)})
        return [found[i] for i in range(len(items))]

    def evidence(self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """A row per utterance, those among them that the model cannot spell; each is a unit of its own."""
        rows = np.asarray(split.parts[part])
        decoder, found = self.decoder(fitted), self.posteriors(model, ClipItems(data, rows))
        references = [data.texts[i] or "" for i in rows]
        plain = [" ".join(decoder.alphabet.decode(greedy(p)).split()) for p in found]
        heard = [decoder.text(p) for p in found] if self.config.decoder == "beam" else plain
        return text_evidence(
            rows,
            references,
            heard,
            greedy_edits=np.array(
                [float(error_counts(r, h)["word_edits"]) for r, h in zip(references, plain, strict=True)]
            ),
            blanks=np.array([float((p.argmax(1) == BLANK).sum()) for p in found]),
            tokens=np.array([float(len(p)) for p in found]),
            short=np.array(
                [float(_too_short(r, len(p), decoder.alphabet)) for r, p in zip(references, found, strict=True)]
            ),
        )

    def baselines(self, data: Clips, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """DTW on templates of training words, the commonest training sentence, silence."""
        from .templates import recognised

        train, val, test = (np.asarray(split.parts[p]) for p in ("train", "val", "test"))
        references = [data.texts[i] or "" for i in test]
        often = Counter(data.texts[i] or "" for i in train)
        guess = min(often, key=lambda text: (-often[text], text))
        found = {"commonest_sentence": [guess] * len(test), "nothing": [""] * len(test)}
        if self.config.templates:
            heard = recognised(data, train, val, test, self.config.templates)
            found |= {} if heard is None else {"dtw_templates": heard}
        return {name: text_evidence(test, references, said) for name, said in found.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        c = evidence.columns
        sums = {name: float(evidence.sum(name)) for pair in RATES.values() for name in pair if name in c}
        return {
            name: sums[top] / sums[below] if top in sums and sums.get(below) else float("nan")
            for name, (top, below) in RATES.items()
        }

    def figures(
        self, model: nn.Module, data: Clips, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .recognise_figures import all_figures

        assert isinstance(model, AudioRecogniser)
        decoder = self.decoder(fitted)
        heard = [decoder.text(p) for p in self.posteriors(model, ClipItems(data, np.asarray(split.parts["test"])))]
        return all_figures(self, model, data, split, fitted, scored, heard)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """Utterances and words of every recording of a source, with times. Raises BadInput."""
        from .recognise_predicting import predict_utterances

        assert isinstance(model, AudioRecogniser)
        return predict_utterances(self.config, model, fitted, source, sink)

    def follow(self, model: nn.Module, fitted: Fitted) -> Follower:
        """A row per utterance of a growing WAV recording, once a pause has ended it."""
        from .recognise_following import SpeechFollower

        assert isinstance(model, AudioRecogniser)
        return SpeechFollower(model, fitted, self.config)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        """Samples -> log-probabilities of the symbols over time, for export; decoding is the caller's."""
        from .portable import of_waves

        assert isinstance(model, AudioRecogniser)
        said = {
            "log_p": f"(batch, tokens, 1 + symbols), a token every {model.step} samples, the blank first",
            "tokens": "(batch,) tokens of each clip that are its own",
        }
        return of_waves(model, int(fitted["rate"]), said, symbols=fitted["symbols"], unit=self.config.unit)


def _normal(read: Read) -> Read:
    """The same under its normalised transcript."""
    return replace(read, entry=replace(read.entry, text=normalised(read.entry.text or "")))


def _too_short(text: str, tokens: int, alphabet: Alphabet) -> bool:
    """Whether so few tokens cannot spell it."""
    return any(p.kind == "too few frames" for p in preflight([""], [text], [tokens], alphabet))
