//! NVMe controller bring-up, queues, PRP and SGL building, deadlines and recovery.
