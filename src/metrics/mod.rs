//! Figures of an open pool for people and programs that watch it: the text format of Prometheus
//! ([`crate::Access::metrics_text`]), a server for it ([`MetricsServer`]), and figures of the last interval
//! ([`crate::Access::interval_stats`]). `docs/metrics.md` lists all of them.

mod histogram;
mod interval;
mod measures;
mod server;
mod table;
mod text;

pub use interval::IntervalStats;
pub(crate) use interval::Mark;
pub(crate) use measures::{Measures, Op};
pub use server::{MetricsError, MetricsServer};
pub use table::{Kind, Metric, metrics};
