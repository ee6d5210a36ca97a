"""What runs a trained model: whole signals, pieces, batches and streams, by one push through a row of layers."""
