//! Whatever goes over the wire comes back the same.
