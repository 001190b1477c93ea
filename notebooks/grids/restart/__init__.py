"""What the grids about a broker that goes away are made of: versions, workers, loads, a proxy."""
