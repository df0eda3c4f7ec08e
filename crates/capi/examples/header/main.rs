//! Writes `include/gcos.h`.

mod generate;

fn main() -> std::io::Result<()> {
    let crate_folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = generate::header(crate_folder).map_err(std::io::Error::other)?;
    std::fs::create_dir_all(crate_folder.join("include"))?;
    std::fs::write(crate_folder.join(generate::PATH), header)
}
