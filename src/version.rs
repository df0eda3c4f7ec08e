/// The version with the commit and target of this build, as `gcos --version` prints it.
#[must_use]
pub fn version() -> &'static str {
    match env!("GCOS_COMMIT") {
        "" => concat!(env!("CARGO_PKG_VERSION"), " (", env!("GCOS_TARGET"), ")"),
        _ => concat!(
            env!("CARGO_PKG_VERSION"),
            " (commit ",
            env!("GCOS_COMMIT"),
            ", ",
            env!("GCOS_TARGET"),
            ")"
        ),
    }
}
