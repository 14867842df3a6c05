#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dfs_tests::fuzz::master::snapshot_rows(data));
