"""How we choose: spaces, studies, samplers, stopping, storage, fronts, workers."""
