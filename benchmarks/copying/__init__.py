"""What the benchmark of copies is made of: real pictures, changes of them, and methods that look
for copies."""
