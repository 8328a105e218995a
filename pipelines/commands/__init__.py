"""The commands of ``cambium``, by subject. Modules here import only what is light; a command imports its own room."""
