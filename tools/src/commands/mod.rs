//! The short commands, one file each.

pub(crate) mod bind;
pub(crate) mod config;
pub(crate) mod copy_pool;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod format;
pub(crate) mod fsck;
pub(crate) mod get;
pub(crate) mod import_lmcache_gds;
pub(crate) mod list;
pub(crate) mod put;
pub(crate) mod remove;
pub(crate) mod scrub;
pub(crate) mod shell;
pub(crate) mod stat;
pub(crate) mod unbind;
