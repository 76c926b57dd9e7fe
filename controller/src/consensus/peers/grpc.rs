//! Controllers over gRPC: one unary method on port 9082, over whatever network `platform` gives.
