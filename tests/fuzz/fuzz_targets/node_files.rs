#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dfs_tests::fuzz::store::node_files(data));
