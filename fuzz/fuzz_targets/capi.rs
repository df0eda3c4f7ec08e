#![no_main]
gcos_fuzz::fuzz!("capi");
