//! The pipeline driven in memory.
