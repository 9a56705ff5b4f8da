"""Which network to try next, and when to stop trying one."""
