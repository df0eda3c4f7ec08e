//! The CPU mapping of exported GPU memory, through Vulkan.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use ash::{khr, vk};

/// A GPU as Vulkan sees it. Making one takes some 0.2 s, so all windows of a GPU share it.
pub(crate) struct VulkanGpu {
    physical: vk::PhysicalDevice,
    // In the order in which they end.
    device: Device,
    instance: Instance,
    _entry: ash::Entry,
}

impl std::fmt::Debug for VulkanGpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VulkanGpu").finish_non_exhaustive()
    }
}

/// GPU memory mapped for the CPU. The mapping ends with this value.
pub(crate) struct CpuMapping {
    memory: vk::DeviceMemory,
    address: NonNull<u8>,
    gpu: Arc<VulkanGpu>,
}

// SAFETY: the handles are used by `drop` alone, which has exclusive access; the mapped memory is reached
// through `SharedMemory`, which answers for it.
unsafe impl Send for CpuMapping {}
// SAFETY: as above.
unsafe impl Sync for CpuMapping {}

/// What a failure of Vulkan means here.
fn refused(what: &str, result: vk::Result) -> String {
    format!("Vulkan: {what}: {result}")
}

impl VulkanGpu {
    /// Finds the GPU with this UUID.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub(crate) fn open(uuid: [u8; 16]) -> Result<Arc<Self>, String> {
        // SAFETY: loading libvulkan.so.1 runs its initialisers, which is what every Vulkan program does.
        let entry = unsafe { ash::Entry::load() }.map_err(|error| {
            format!(
                "the Vulkan loader (libvulkan.so.1, package libvulkan1) cannot be loaded: {error}"
            )
        })?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_1);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structures are valid for the call.
        let instance = unsafe { entry.create_instance(&create, None) }.map_err(|result| {
            let cure = "the NVIDIA driver's ICD file (nvidia_icd.json) must be in a default folder or \
                        named by VK_DRIVER_FILES";
            format!("{}; {cure}", refused("no instance", result))
        })?;
        let instance = Instance(instance);
        let physical = find_device(&instance.0, uuid)?;
        let device = Device(create_device(&instance.0, physical)?);
        Ok(Arc::new(Self { physical, device, instance, _entry: entry }))
    }
}

impl CpuMapping {
    /// Maps `len` bytes of the memory that `fd` stands for, which is this GPU's.
    ///
    /// # Errors
    /// What was expected and found, and what to do.
    pub(crate) fn new(gpu: &Arc<VulkanGpu>, fd: OwnedFd, len: usize) -> Result<Self, String> {
        let (instance, device) = (&gpu.instance.0, &gpu.device.0);
        let (memory, address) = import(instance, gpu.physical, device, fd, len)?;
        Ok(Self { memory, address, gpu: Arc::clone(gpu) })
    }

    /// Address of the first byte for the CPU.
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }
}

impl Drop for CpuMapping {
    fn drop(&mut self) {
        // SAFETY: the memory is ours, the device is live, and nothing refers to the mapping any more.
        unsafe {
            self.gpu.device.0.unmap_memory(self.memory);
            self.gpu.device.0.free_memory(self.memory, None);
        }
    }
}

impl std::fmt::Debug for CpuMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuMapping").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An instance that is destroyed at its end.
struct Instance(ash::Instance);

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the instance is ours and has no device any more.
        unsafe { self.0.destroy_instance(None) };
    }
}

/// A device that is destroyed at its end.
struct Device(ash::Device);

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the device is ours and nothing of it is in use.
        unsafe { self.0.destroy_device(None) };
    }
}

/// The Vulkan device that is the GPU with this UUID.
fn find_device(instance: &ash::Instance, uuid: [u8; 16]) -> Result<vk::PhysicalDevice, String> {
    // SAFETY: the instance is live.
    let all = unsafe { instance.enumerate_physical_devices() };
    let all = all.map_err(|result| refused("its devices cannot be listed", result))?;
    let count = all.len();
    let matches = |&physical: &vk::PhysicalDevice| {
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut id);
        // SAFETY: the instance is live, and the structures are valid for the call.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        id.device_uuid == uuid
    };
    all.into_iter().find(matches).ok_or_else(|| {
        format!("none of Vulkan's {count} devices is this GPU; its driver must be installed with graphics")
    })
}

fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Result<ash::Device, String> {
    let priorities = [1.0];
    let queue =
        vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&priorities);
    let queues = [queue];
    let extensions = [khr::external_memory_fd::NAME.as_ptr()];
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions);
    // SAFETY: the structures are valid for the call; a queue family 0 exists on every device.
    unsafe { instance.create_device(physical, &create, None) }
        .map_err(|result| refused("no device with VK_KHR_external_memory_fd", result))
}

/// Imports the memory, into whichever type of memory the CPU can map coherently.
fn import(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    device: &ash::Device,
    fd: OwnedFd,
    len: usize,
) -> Result<(vk::DeviceMemory, NonNull<u8>), String> {
    let wanted = vk::MemoryPropertyFlags::DEVICE_LOCAL
        | vk::MemoryPropertyFlags::HOST_VISIBLE
        | vk::MemoryPropertyFlags::HOST_COHERENT;
    // SAFETY: the instance is live.
    let types = unsafe { instance.get_physical_device_memory_properties(physical) };
    let mut last =
        "no memory type is device-local, host-visible and host-coherent: the GPU's BAR1 is \
                    too small or switched off (Above 4G Decoding and Resizable BAR in the firmware)"
            .to_owned();
    for (index, kind) in (0u32..).zip(types.memory_types_as_slice()) {
        if !kind.property_flags.contains(wanted) {
            continue;
        }
        // A successful import takes the descriptor over, so each attempt has its own.
        let copy =
            fd.try_clone().map_err(|error| format!("no file descriptor is left: {error}"))?;
        match import_as(device, index, copy, len) {
            Ok(memory) => return map(device, memory, len),
            Err(result) => last = refused("importing the memory", result),
        }
    }
    Err(last)
}

fn import_as(
    device: &ash::Device,
    memory_type: u32,
    fd: OwnedFd,
    len: usize,
) -> Result<vk::DeviceMemory, vk::Result> {
    use std::os::fd::{AsRawFd, FromRawFd};
    let raw = fd.into_raw_fd();
    let mut import = vk::ImportMemoryFdInfoKHR::default()
        .handle_type(vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD)
        .fd(raw);
    let allocate = vk::MemoryAllocateInfo::default()
        .allocation_size(len as u64)
        .memory_type_index(memory_type)
        .push_next(&mut import);
    // SAFETY: the structures are valid for the call, and the descriptor is open.
    let result = unsafe { device.allocate_memory(&allocate, None) };
    if result.is_err() {
        // SAFETY: Vulkan takes the descriptor only when it succeeds; it is still ours.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        tracing::debug!(fd = fd.as_raw_fd(), memory_type, ?result, "not imported");
    }
    result
}

fn map(
    device: &ash::Device,
    memory: vk::DeviceMemory,
    len: usize,
) -> Result<(vk::DeviceMemory, NonNull<u8>), String> {
    // SAFETY: the memory is host-visible and of this length.
    let address = unsafe { device.map_memory(memory, 0, len as u64, vk::MemoryMapFlags::empty()) };
    match address.map(|address| NonNull::new(address.cast::<u8>())) {
        Ok(Some(address)) => Ok((memory, address)),
        failed => {
            // SAFETY: the memory is ours and not in use.
            unsafe { device.free_memory(memory, None) };
            let why = failed.err().unwrap_or(vk::Result::ERROR_MEMORY_MAP_FAILED);
            Err(refused("mapping the memory (BAR1 may be used up)", why))
        }
    }
}
