# Public names: what YAML, run identities and users write. A module may move, its names stay.
