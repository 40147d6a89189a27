//! The library in forty lines.
fn main() {}
