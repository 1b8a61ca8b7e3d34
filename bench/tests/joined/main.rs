//! scratch
mod random;
