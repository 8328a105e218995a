"""Pictures of `audio/recognise`: posteriors with the words on the time axis, what is taken for what, error rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..pictures import panel
from ..task import Evidence, Fitted, Split
from .clips import Clips
from .ctc import frames_needed
from .decoding import words_of
from .figures import _frames
from .items import collate
from .recognise_model import AudioRecogniser
from .text import Alphabet, paired

if TYPE_CHECKING:
    from .recognise import Recognise

SHOWN, MOST_WORDS = 4, 20
NOTHING = "(nothing)"


def alignment(model: AudioRecogniser, data: Clips, row: int, alphabet: Alphabet, labels: Any) -> Figure:
    """Waveform, frames, and over time the probability of every label that is likely somewhere; words where they stand.

    Above: the words of the transcript, aligned; below: those that were decoded.
    """
    wave, text = data.waves[row], data.texts[row] or ""
    with torch.no_grad():
        batch = {k: v.to(model.mean.device) for k, v in collate([wave]).items()}
        found, count = model(batch["wave"], batch["length"])
    log_p = found[0, : int(count[0])].cpu().double().numpy()
    step = model.step / model.front_end.rate
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, middle, low = figure.subplots(3, 1, sharex=True)
    top.plot(np.arange(len(wave)) / data.rate, wave, linewidth=0.4)
    top.set_ylabel("amplitude")
    _frames(middle, model, wave)
    middle.set_ylabel("band")
    p = np.exp(log_p)
    at = (np.arange(len(p)) + 0.5) * step
    low.fill_between(at, p[:, 0], color="0.92", label="blank")
    for c in np.flatnonzero(p[:, 1:].max(0) > 0.2) + 1:
        low.plot(at, p[:, c], label=repr(alphabet.symbols[c - 1])[1:-1] or "space", linewidth=1)
    low.legend(fontsize="x-small", ncols=2, loc="upper left", bbox_to_anchor=(1, 1))
    low.set(xlabel="s", ylabel="probability", ylim=(0, 1.25))
    heard = words_of(log_p, labels(log_p), alphabet)
    _written(low, heard, step, 1.08, "tab:blue")
    spelt = [] if alphabet.strange(text) else alphabet.encode(text)  # nothing: letters that the model does not know
    truth = words_of(log_p, spelt, alphabet) if frames_needed(spelt) <= len(log_p) else []
    _written(top, truth, step, top.get_ylim()[1], "0.3")
    said = " ".join(w.word for w in heard)
    top.set_title(f"{data.names[row]}: said {text!r}, heard {said!r}", fontsize="small")
    return figure


def _written(axes: Any, words: Any, step: float, height: float, colour: str) -> None:
    for w in words:
        axes.axvspan(w.start * step, w.end * step, color=colour, alpha=0.08)
        middle = (w.start + w.end) / 2 * step
        axes.text(middle, height, w.word, ha="center", va="top", fontsize="small", color=colour)


def mistaken(references: list[str], heard: list[str]) -> Figure:
    """Words by what was heard in their place, over the whole test part; the most frequent words."""
    pairs = Counter(pair for r, h in zip(references, heard, strict=True) for pair in paired(r.split(), h.split()))
    often = Counter(w for r in references for w in r.split())
    names = [w for w, _ in often.most_common(MOST_WORDS)]
    columns = [*names, NOTHING]
    table = np.zeros((len(names) + 1, len(columns)))
    for (said, got), n in pairs.items():
        i = len(names) if said is None else names.index(said) if said in names else -1
        j = len(names) if got is None else names.index(got) if got in names else -1
        if i >= 0 and j >= 0:
            table[i, j] += n
    figure, axes = panel(6, 5)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= 15:
        for i, j in np.ndindex(*table.shape):
            if table[i, j]:
                colour = "w" if share[i, j] > 0.5 else "k"
                axes.text(j, i, f"{table[i, j]:g}", ha="center", va="center", fontsize="x-small", color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize="small")
    axes.set_yticks(range(len(columns)), columns, fontsize="small")
    axes.set(xlabel="heard", ylabel="said", title="test words; last row: added, last column: left out")
    return figure


def rates(task: Recognise, scored: Mapping[str, Evidence]) -> Figure:
    """Word error rate of each method by what went wrong."""
    figure, axes = panel(6, 4)
    below = np.zeros(len(scored))
    values = {name: task.metrics(e) for name, e in scored.items()}
    for kind in ("substitutions", "deletions", "insertions"):
        heights = np.array([v[kind] for v in values.values()])
        axes.bar(list(values), heights, bottom=below, label=kind)
        below += heights
    axes.set(ylabel="per word of the references", title="word error rate, test part")
    axes.tick_params(axis="x", rotation=20)
    axes.legend(fontsize="small")
    return figure


def by_group(data: Clips, scored: Mapping[str, Evidence]) -> Figure:
    """Word error rate by speaker or source."""
    figure, axes = panel(6, 4)
    width = 0.8 / len(scored)
    names: list[str] = []
    for k, (name, evidence) in enumerate(scored.items()):
        c = evidence.columns
        group = np.array([data.groups[int(i)] or "(none)" for i in c["case"]])
        names = sorted(set(group))
        rate = [c["word_edits"][group == g].sum() / max(1.0, c["words"][group == g].sum()) for g in names]
        axes.bar(np.arange(len(names)) + k * width, rate, width, label=name)
    axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names)
    axes.set(ylabel="word error rate", title="by speaker or source, test part")
    axes.legend(fontsize="small")
    return figure


def all_figures(
    task: Recognise,
    model: AudioRecogniser,
    data: Clips,
    split: Split,
    fitted: Fitted,
    scored: Mapping[str, Evidence],
    heard: list[str],
) -> Mapping[str, Figure]:
    """Title -> picture."""
    rows = split.parts["test"]
    decoder = task.decoder(fitted)
    wrong = scored["model"].columns["word_edits"]
    order = np.argsort(-wrong, kind="stable")
    chosen = list(dict.fromkeys([int(order[0]), *(int(i) for i in order[:: max(1, len(order) // SHOWN)])]))[:SHOWN]
    found = {
        f"Posteriors over time, {data.names[int(rows[i])]}": alignment(
            model, data, int(rows[i]), decoder.alphabet, decoder.labels
        )
        for i in chosen
    }
    return {
        **found,
        "What is taken for what": mistaken([data.texts[int(i)] or "" for i in rows], heard),
        "Errors by kind": rates(task, scored),
        "By speaker": by_group(data, scored),
    }
