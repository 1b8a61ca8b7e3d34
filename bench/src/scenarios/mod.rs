//! What the bench does, one module per scenario. Each builds its own network and leaves nothing behind.

pub mod demo;
