//! A controller of the guest: QEMU's device and what is behind it.

use std::fs::File;
use std::path::Path;

/// What is behind one controller.
#[derive(Debug, Clone, Default)]
pub struct Drive {
    bytes: u64,
    null: bool,
    options: String,
    pub(super) root_port: bool,
    /// Commands per second, if they are held back.
    pub(super) pace: Option<u32>,
}

impl Drive {
    /// A sparse raw file.
    #[must_use]
    pub fn file(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// A backend that does nothing at once, for figures.
    #[must_use]
    pub fn null(bytes: u64) -> Self {
        Self { bytes, null: true, ..Self::default() }
    }

    /// Holds a file's commands back, to so many per second: then some are in flight at any time.
    #[must_use]
    pub fn slow(mut self, per_second: u32) -> Self {
        self.pace = Some(per_second);
        self
    }

    /// Options of QEMU's `nvme` device, such as `mdts=5`.
    #[must_use]
    pub fn with(mut self, options: &str) -> Self {
        self.options = format!("{},{options}", self.options);
        self
    }

    /// Behind a root port, so that it can be unplugged.
    #[must_use]
    pub fn behind_root_port(mut self) -> Self {
        self.root_port = true;
        self
    }

    /// The controller's device of QEMU, `nvme0` for the first drive, over a block node.
    pub(super) fn device(&self, index: usize, node: &str) -> String {
        let bus = if self.root_port { format!("rp{index}") } else { "pcie.0".to_owned() };
        let options = &self.options;
        format!("nvme,id=nvme{index},serial=GUEST{index},drive={node},bus={bus}{options}")
    }
}

/// QEMU's arguments for what is behind a controller: a node `dN`. (A `-drive` would go away with the
/// controller when that is unplugged.)
pub(super) fn backend(drive: &Drive, index: usize, folder: &Path) -> Result<Vec<String>, String> {
    let Drive { bytes, .. } = drive;
    let node = |text: String| vec!["-blockdev".to_owned(), text];
    if drive.null {
        let text = format!("driver=null-co,node-name=d{index},size={bytes},read-zeroes=on");
        return Ok(node(text));
    }
    let path = folder.join(format!("drive{index}"));
    let created = File::create(&path).and_then(|file| file.set_len(*bytes));
    created.map_err(|error| format!("{}: {error}", path.display()))?;
    let file =
        format!("discard=unmap,file.driver=file,file.locking=off,file.filename={}", path.display());
    let Some(pace) = drive.pace else {
        return Ok(node(format!("driver=raw,node-name=d{index},{file}")));
    };
    let mut arguments = node(format!("driver=raw,node-name=f{index},{file}"));
    let group = format!("throttle-group,id=t{index},x-iops-total={pace}");
    arguments.extend(["-object".to_owned(), group]);
    let throttled =
        format!("driver=throttle,throttle-group=t{index},node-name=d{index},file=f{index}");
    arguments.extend(node(throttled));
    Ok(arguments)
}
