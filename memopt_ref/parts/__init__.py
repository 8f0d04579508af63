"""What rules are made of: covers, sketches, hashing, Top-K, quantisers, row-sparse gradients, sums."""
