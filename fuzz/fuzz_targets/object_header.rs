#![no_main]
gcos_fuzz::fuzz!("object_header");
