//! What hostile input costs.

mod mapper;
mod sparse;

pub use mapper::Counted;
pub use sparse::Sparse;
