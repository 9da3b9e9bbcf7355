"""What a pipeline says of itself: metrics, traces and logs. Ids only, never a text or a key."""
