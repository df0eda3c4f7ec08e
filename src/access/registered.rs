use std::collections::BTreeMap;
use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaSlice, DmaSpace, SharedMemory};
use parking_lot::RwLock;

use super::AccessError;

/// Memory of callers that drives reach, by address.
#[derive(Debug, Default)]
pub(super) struct Registered {
    memory: RwLock<BTreeMap<usize, DmaBuffer>>,
}

/// Memory of the caller that drives reach. Dropping it takes the memory out of their reach, as soon as no
/// I/O has it.
#[derive(Debug)]
#[must_use = "dropping it unregisters the memory"]
pub struct Registration {
    address: usize,
    len: usize,
    table: Arc<Registered>,
}

impl Registered {
    pub(super) fn add(
        table: &Arc<Self>,
        space: &Arc<DmaSpace>,
        memory: SharedMemory,
    ) -> Result<Registration, AccessError> {
        let (address, len) = (memory.address(), memory.len());
        // Declared first, so that what is refused is given back with the table unlocked: its owner may wait for
        // somebody who waits for the table.
        let memory = Arc::new(memory);
        let mut registered = table.memory.write();
        let end = address.saturating_add(len);
        if let Some((&other, there)) = registered.range(..end).next_back()
            && other.saturating_add(there.len()) > address
        {
            return Err(AccessError::Overlap { address, len, other, other_len: there.len() });
        }
        registered.insert(address, space.adopt(Arc::clone(&memory))?);
        Ok(Registration { address, len, table: Arc::clone(table) })
    }

    pub(super) fn slice(&self, address: usize, len: usize) -> Option<DmaSlice> {
        let registered = self.memory.read();
        let (&start, buffer) = registered.range(..=address).next_back()?;
        buffer.slice(address - start, len).ok()
    }
}

impl Registration {
    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true; present because `len` is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let gone = self.table.memory.write().remove(&self.address);
        // Unmapping may take a while: not with the table locked.
        drop(gone);
    }
}
