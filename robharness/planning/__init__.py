"""Planning: from a suite to cells with identities and keys."""
