//! What lies in a bucket, and the file that says where one is.

use std::path::Path;

use crate::block::BlockMeta;
use crate::bucket::{DeletionMark, Mark, NoCompactMark, NoDownsampleMark, StoreConfig, ThanosMeta};

/// Reads `data` as the configuration of a bucket. An error says where; what is accepted has a name and a clean prefix.
pub fn store_config(data: &[u8]) {
    let Ok(yaml) = str::from_utf8(data) else { return };
    match StoreConfig::parse(Path::new("bucket.yml"), yaml) {
        Ok(config) => {
            let name = config.name();
            assert!(name.starts_with("s3://") || name.starts_with("file://"), "{name}");
            assert!(config.warnings().iter().all(|warning| warning.starts_with("bucket.yml: config.")));
        }
        Err(error) => assert!(error.to_string().starts_with("bucket.yml:"), "{error}"),
    }
}

/// Reads `data` as a `meta.json` and as marks. What is read and written again is read the same.
pub fn thanos_meta(data: &[u8]) {
    mark::<DeletionMark>(data);
    mark::<NoCompactMark>(data);
    mark::<NoDownsampleMark>(data);
    let Ok(mut meta) = BlockMeta::parse(Path::new("meta.json"), data) else { return };
    let Ok(Some(section)) = ThanosMeta::of(&meta) else { return };
    section.put_into(&mut meta);
    let written = meta.to_json();
    let again = BlockMeta::parse(Path::new("meta.json"), &written).ok();
    let again_section = again.as_ref().and_then(|meta| ThanosMeta::of(meta).ok().flatten());
    assert_eq!(again_section.as_ref(), Some(&section));
    assert_eq!(again.map(|meta| meta.to_json()), Some(written));
}

fn mark<M: Mark>(data: &[u8]) {
    if let Ok(mark) = M::parse("mark", data) {
        let written = mark.to_json();
        assert_eq!(M::parse("mark", &written).ok().map(|mark| mark.to_json()), Some(written));
    }
}
