//! GCOS
