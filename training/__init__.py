"""Training of the encoder, the connector and the decoder around the memory."""
