//! The controller memory buffer (Base, section 8.5): memory of the controller, which the host reaches
//! behind a BAR.

use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaMapper, DmaSlice, DmaSpace, HwError, PAGE_BYTES, SharedMemory};
use gcos_layout::nvme::{Cmbloc, Cmbmsc, Cmbsz, Register};

use crate::NvmeError;
use crate::device::Device;

/// Where the controller finds its buffer among its addresses: beyond what any IOMMU translates, so
/// that no memory of the host has the same address.
const BASE: u64 = 1 << 60;

/// CMBSTS.CBAI: the address that was chosen cannot be.
const INVALID_ADDRESS: u32 = 1;

/// For addresses that only the controller itself uses: nothing needs to be mapped anywhere.
#[derive(Debug)]
struct Inside;

impl DmaMapper for Inside {
    fn map(&self, _iova: u64, _memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}

/// A controller's memory buffer, in use.
#[derive(Debug)]
pub(crate) struct ControllerMemory {
    /// Of the whole BAR.
    bar: DmaBuffer,
    offset: usize,
    len: usize,
}

impl ControllerMemory {
    /// Finds the buffer and tells the controller its address. Where that fails nothing is left of it.
    pub(crate) fn find(device: &Device) -> Result<Self, NvmeError> {
        let before = Cmbmsc(device.function.read64(Register::Cmbmsc.offset()));
        Self::try_find(device, before).inspect_err(|_| {
            if device.cap.cmbs() {
                Self::hide(device);
            }
        })
    }

    fn try_find(device: &Device, before: Cmbmsc) -> Result<Self, NvmeError> {
        let unsupported = |what, expected: &str, got| NvmeError::Unsupported {
            device: Arc::clone(&device.name),
            what,
            expected: expected.to_owned(),
            got,
        };
        if !device.cap.cmbs() {
            let expected = "a controller memory buffer (bit 57), as the options ask for";
            return Err(unsupported("CAP.CMBS", expected, 0));
        }
        let function = &device.function;
        let size = || Cmbsz(function.read32(Register::Cmbsz.offset()));
        if !before.cre() && size().sz() != 0 {
            let expected = "0 before CMBMSC.CRE is set: a buffer as in NVMe 1.4 or later, not one at \
                            a fixed bus address";
            return Err(unsupported("CMBSZ", expected, size().0.into()));
        }
        function.write64(Register::Cmbmsc.offset(), Cmbmsc::default().with_cre(true).0);
        let (place, size) = (Cmbloc(function.read32(Register::Cmbloc.offset())), size());
        if !size.sqs() || size.bytes() == 0 {
            let expected = "a buffer that submission queues may lie in (bit 0)";
            return Err(unsupported("CMBSZ", expected, size.0.into()));
        }
        let bar = function
            .bar(place.bir())
            .map_err(NvmeError::platform(&device.name, "mapping the controller memory buffer"))?;
        let offset = size.unit_bytes().saturating_mul(place.ofst().into());
        let room = (bar.len() as u64).saturating_sub(offset);
        let len = size.bytes().min(room);
        let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else {
            return Err(unsupported("CMBLOC", "a place within its BAR", place.0.into()));
        };
        if len == 0 {
            return Err(unsupported("CMBLOC", "a place within its BAR", place.0.into()));
        }
        let failed = || NvmeError::platform(&device.name, "placing the controller memory buffer");
        let addresses = BASE..BASE + (bar.len() + PAGE_BYTES) as u64;
        let addresses = std::slice::from_ref(&addresses);
        let space = DmaSpace::new(Arc::new(Inside), addresses).map_err(failed())?;
        let memory = Self { bar: space.adopt(bar).map_err(failed())?, offset, len };
        memory.place(device)?;
        Ok(memory)
    }

    /// Tells the controller the buffer's address, in one store: halves would be two addresses.
    pub(crate) fn place(&self, device: &Device) -> Result<(), NvmeError> {
        let base = self.bar.as_dma().iova() + self.offset as u64;
        let control = Cmbmsc::default().with_cba(base).with_cre(true).with_cmse(true);
        let function = &device.function;
        function.write64(Register::Cmbmsc.offset(), control.0);
        let kept = function.read64(Register::Cmbmsc.offset());
        let status = function.read32(Register::Cmbsts.offset());
        if kept == control.0 && status & INVALID_ADDRESS == 0 {
            return Ok(());
        }
        Err(NvmeError::Unsupported {
            device: Arc::clone(&device.name),
            what: "CMBMSC",
            expected: format!("{:#x} to be accepted, CMBSTS = {status:#x}", control.0),
            got: kept,
        })
    }

    /// Hides the buffer again.
    pub(crate) fn hide(device: &Device) {
        device.function.write64(Register::Cmbmsc.offset(), 0);
    }

    /// The buffer, at the controller's address for it.
    pub(crate) fn memory(&self, device: &Device) -> Result<DmaSlice, NvmeError> {
        let bounds = NvmeError::bounds(&device.name, "using the controller memory buffer");
        self.bar.slice(self.offset, self.len).map_err(bounds)
    }
}
