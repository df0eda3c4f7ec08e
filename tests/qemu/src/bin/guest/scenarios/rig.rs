//! What the other scenarios count on: the devices, the IOMMU, the modules.

use std::fs;
use std::path::Path;

use crate::report::{Report, ensure};
use crate::{kernel, sysfs};

pub(crate) fn run(report: &mut Report) {
    report.case("the guest has a controller and a peer device", || {
        ensure(sysfs::controllers()?.len() == 1, || "not one controller".into())?;
        ensure(sysfs::peers()?.len() == 1, || "not one peer".into())?;
        let len = fs::metadata(sysfs::peer_file(&sysfs::peers()?[0]))?.len();
        ensure(len == 64 << 20, || format!("the peer has {len} bytes"))
    });
    report.case("the IOMMU puts each function into a group of its own", || {
        let drive = sysfs::controller()?;
        let peer = sysfs::peers()?[0];
        let (a, b) = (sysfs::group(&drive)?, sysfs::group(&peer)?);
        ensure(a != b, || format!("both are in group {a}"))
    });
    report.case("the kernel's driver has the controller and gives it to vfio-pci and back", || {
        let drive = sysfs::controller()?;
        ensure(sysfs::driver(&drive).as_deref() == Some("nvme"), || {
            format!("it is with {:?}", sysfs::driver(&drive))
        })?;
        sysfs::bind(&drive)?;
        let node = format!("/dev/vfio/{}", sysfs::group(&drive)?);
        ensure(Path::new(&node).exists(), || format!("there is no {node}"))?;
        sysfs::give(&drive, "")?;
        ensure(sysfs::driver(&drive).as_deref() == Some("nvme"), || {
            format!("it is with {:?}", sysfs::driver(&drive))
        })
    });
    report.case("the kernel's log is readable and has no fault", || {
        let faults = kernel::faults()?;
        ensure(faults == 0, || format!("{faults} faults"))
    });
}
