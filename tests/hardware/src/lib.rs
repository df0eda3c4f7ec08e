//! What must hold on any NVMe controller, as cases over a [`gcos_hw::Function`].
