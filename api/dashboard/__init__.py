"""Pages for people: rendered here, kept alive by small scripts. They tell what `/v1` tells the same key."""
