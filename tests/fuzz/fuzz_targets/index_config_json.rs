//! config.json and the index of shards.
#![no_main]

use aquila::loading::index;
use aquila::model::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = config::parse("config.json", bytes) {
        let spec = config.spec;
        assert!(spec.heads % spec.kv_heads == 0 && spec.head_dim % 2 == 0);
        assert!(spec.parameters() > 0 && spec.context > 0);
    }
    if let Ok(map) = index::parse("index", bytes) {
        let plain = |shard: &str| !shard.is_empty() && !shard.contains('/') && shard != "..";
        assert!(map.iter().all(|(_, shard)| plain(shard)));
    }
});
