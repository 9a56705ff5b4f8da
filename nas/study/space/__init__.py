"""What may be chosen: search spaces, candidates, published networks."""
