//! A block goes into a bucket, in Thanos's order.
//!
//! ```text
//! check            labels, chunks, sums: what Thanos could not read is not sent
//! list             what is there of the block: an attempt may have been cut
//! chunks/*, index  in parts, the sums being taken on the way
//! list             all of it must be there, with the right sizes
//! meta.json        last, and only if there is none: from here on the block is there
//! ```
//!
//! Nobody takes a block without `meta.json` for one, so a cut upload harms nothing and the next attempt goes on where it
//! ended: an object that is there with the right size is not sent again. That is safe because objects are there whole or
//! not at all (S3 shows one when its last byte is in; on a disk it is written beside and renamed), because nobody else
//! writes below a block's name, and because a block's files never change. The one exception is a block with deleted
//! samples: Thanos knows no tombstones in a bucket, so the block is rewritten without the samples before it is sent, and
//! what an earlier attempt left may be from before the deletion. Its files are always sent.

use std::path::Path;

use bytes::Bytes;

use super::file_reader::{FileReader, READ_SIZE, hash_file};
use super::meta::{FileEntry, IndexStats, ThanosMeta, go_time};
use super::rewrite::Rewritten;
use super::{Bucket, StoredObject};
use crate::block::{Block, BlockError, BlockMeta, BlockRead, CHUNKS_DIR, INDEX_FILE, META_FILE, Ulid};
use crate::chunk::Encoding;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Env, Fs};
use crate::index::{ChunkMeta, Version};
use crate::model::Labels;

/// The source that is noted for blocks which a program took in by itself.
pub const SOURCE_RECEIVE: &str = "receive";
/// The encoding of Thanos's aggregates, in downsampled blocks alone.
const AGGREGATES: u8 = 0xff;
/// The most parts that S3 takes for an object.
const PARTS_MAX: u64 = 10_000;

/// What a block gets on its way into the bucket.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// The external labels: who wrote the samples. A block must have some.
    pub labels: Labels,
    /// Which kind of program uploads it: [`SOURCE_RECEIVE`], `bucket.upload`, …
    pub source: String,
    /// Send chunks too that Thanos cannot read: its store would answer errors, or die, over such a block.
    pub any_encoding: bool,
}

impl UploadOptions {
    /// For blocks that this program took in, with these external labels.
    #[must_use]
    pub fn new(labels: Labels) -> Self {
        Self { labels, source: SOURCE_RECEIVE.to_owned(), any_encoding: false }
    }
}

/// How an upload ended that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Uploaded {
    /// The block was there, whole, with this meta.
    Already(BlockMeta),
    /// It is there now.
    Now {
        /// Its meta in the bucket.
        meta: BlockMeta,
        /// Bytes that were sent; fewer than the block has if an earlier attempt was cut.
        bytes: u64,
    },
    /// It has no samples, or none that are not deleted: there is nothing to send.
    Nothing,
}

/// Told how far an upload is. All of it is called on the uploading thread.
pub trait Progress {
    /// A block begins; `bytes` are to be read and sent.
    fn begin(&self, block: Ulid, bytes: u64) {
        let _ = (block, bytes);
    }

    /// So many more are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The block is done, well or not.
    fn end(&self, block: Ulid) {
        let _ = block;
    }
}

/// Tells nobody.
impl Progress for () {}

/// Uploads the block in `dir`, which stays as it is. Waits for the bucket: not to be called on a thread of its runtime
/// that does async work.
///
/// # Errors
/// `InvalidInput` without external labels; `Unsupported` for chunks that Thanos cannot read; `Corrupt` if the block is
/// damaged, or if the bucket has another block by its name, which is left alone; `Io`, `Full`. Nothing is to be cleaned up
/// after any: calling again goes on.
pub fn upload_block(
    bucket: &Bucket,
    env: &Env,
    dir: &Path,
    options: &UploadOptions,
    progress: &dyn Progress,
) -> Result<Uploaded> {
    let fs = env.fs.as_ref();
    let block = Block::open(fs, dir)?;
    let mut meta = block.meta().clone();
    let name = dir.file_name().and_then(|name| name.to_str()).and_then(|name| Ulid::from_string(name).ok());
    if name.is_some_and(|name| name != meta.ulid) {
        let reason = format!("{META_FILE} says that this is block {}", meta.ulid);
        return Err(BlockError::inconsistent(dir, reason).into());
    }
    let mut thanos = ThanosMeta::of(&meta)?.unwrap_or_default();
    let labels = options.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    thanos.labels.extend(labels);
    if thanos.labels.is_empty() {
        let text = format!("{}: a block in a bucket needs external labels: they say whose it is", dir.display());
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    thanos.version = 1;
    thanos.source.clone_from(&options.source);
    if meta.stats.num_samples == 0 {
        return Ok(Uploaded::Nothing);
    }

    let there = bucket.block_on(bucket.list(&meta.ulid.to_string()))?;
    let key = format!("{}/{META_FILE}", meta.ulid);
    let is_there = there.iter().any(|object| object.key == key);
    let is_whole = block.all_tombstones().is_empty();
    if is_there {
        match compare(bucket, fs, &meta, dir, &there) {
            // It may have been sent before something was deleted in it: then it has these files. See `Rewritten`.
            Err(error) if is_whole || error.kind() != ErrorKind::Corrupt => return Err(error),
            Err(_) => {}
            Ok(found) => return Ok(Uploaded::Already(found)),
        }
    }
    let rewritten = match is_whole {
        true => None,
        false => match Rewritten::of(env, &block)? {
            None => return Ok(Uploaded::Nothing),
            some => some,
        },
    };
    let dir = rewritten.as_ref().map_or(dir, |rewritten| &rewritten.dir);
    if is_there {
        return compare(bucket, fs, &meta, dir, &there).map(Uploaded::Already);
    }
    let block = match &rewritten {
        None => block,
        Some(rewritten) => Block::open(fs, &rewritten.dir)?,
    };
    meta.stats = block.meta().stats.clone();
    // Thanos takes a block whose sources are contained in another's for a duplicate: without its own name a block of
    // level 1 would be hidden, and deleted.
    let compaction = &mut meta.compaction;
    if compaction.sources.is_empty() || (compaction.level <= 1 && !compaction.sources.contains(&meta.ulid)) {
        compaction.sources.push(meta.ulid);
    }
    thanos.index_stats = check(&block, thanos.downsample.resolution, options.any_encoding)?;
    let mut files = files_of(fs, dir)?;
    let total: u64 = files.iter().map(|file| file.size_bytes).sum();
    progress.begin(meta.ulid, total);
    let there: &[StoredObject] = if rewritten.is_some() { &[] } else { &there };
    let sent = bucket.block_on(send_files(bucket, fs, dir, meta.ulid, &mut files, there, progress));
    progress.end(meta.ulid);
    let mut bytes = sent?;
    // Whoever clears away what cut uploads left may have taken this one for such, and what was not sent again is gone.
    let there = bucket.block_on(bucket.list(&meta.ulid.to_string()))?;
    if let Some(file) = files.iter().find(|file| size_there(&there, meta.ulid, &file.rel_path) != Some(file.size_bytes))
    {
        let text = format!("{}: {}/{} was sent and is not there", bucket.name(), meta.ulid, file.rel_path);
        return Err(Error::new(ErrorKind::Io, text));
    }

    thanos.segment_files =
        files.iter().filter_map(|file| file.rel_path.strip_prefix("chunks/")).map(str::to_owned).collect();
    files.push(FileEntry { rel_path: META_FILE.to_owned(), ..FileEntry::default() });
    files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    thanos.files = files;
    thanos.upload_time = go_time(env.clock.now_ms());
    thanos.put_into(&mut meta);
    let content = Bytes::from(meta.to_json());
    bytes += content.len() as u64;
    if bucket.block_on(bucket.put_if_absent(&key, content))? {
        return Ok(Uploaded::Now { meta, bytes });
    }
    // Somebody was faster, or an attempt that seemed to fail did not.
    let there = bucket.block_on(bucket.list(&meta.ulid.to_string()))?;
    compare(bucket, fs, &meta, dir, &there).map(Uploaded::Already)
}

/// The files of the block in `dir` but its meta, in the order that they are uploaded in, without their sums.
fn files_of(fs: &dyn Fs, dir: &Path) -> Result<Vec<FileEntry>> {
    let chunks = dir.join(CHUNKS_DIR);
    let mut files = Vec::new();
    for entry in fs.list(&chunks).map_err(BlockError::io(&chunks))? {
        if !entry.is_dir && entry.name.parse::<u32>().is_ok() {
            files.push(format!("{CHUNKS_DIR}/{}", entry.name));
        }
    }
    files.push(INDEX_FILE.to_owned());
    let entry = |rel_path: String| {
        let path = dir.join(&rel_path);
        let stat = fs.stat(&path).map_err(BlockError::io(&path))?;
        let Some(stat) = stat else {
            return Err(BlockError::inconsistent(dir, format!("{rel_path} is missing")).into());
        };
        Ok(FileEntry { rel_path, size_bytes: stat.len, ..FileEntry::default() })
    };
    files.into_iter().map(entry).collect()
}

/// The size of a block's file in the bucket, if it is there.
fn size_there(there: &[StoredObject], block: Ulid, rel_path: &str) -> Option<u64> {
    let key = format!("{block}/{rel_path}");
    there.iter().find(|object| object.key == key).map(|object| object.size)
}

/// Sends what is not there, and fills in the sums of all. Returns how many bytes were sent.
async fn send_files(
    bucket: &Bucket,
    fs: &dyn Fs,
    dir: &Path,
    ulid: Ulid,
    files: &mut [FileEntry],
    there: &[StoredObject],
    progress: &dyn Progress,
) -> Result<u64> {
    let mut bytes = 0;
    for file in files {
        let key = format!("{ulid}/{}", file.rel_path);
        let path = dir.join(&file.rel_path);
        if size_there(there, ulid, &file.rel_path) == Some(file.size_bytes) {
            file.hash = Some(FileReader::open(fs, &path, file.size_bytes, READ_SIZE, progress)?.finish()?);
            continue;
        }
        let part_size = bucket.part_size().max(file.size_bytes.div_ceil(PARTS_MAX));
        let mut reader = FileReader::open(fs, &path, file.size_bytes, part_size, progress)?;
        if file.size_bytes <= part_size {
            let content = reader.next().transpose()?.unwrap_or_default();
            bucket.put(&key, content).await?;
        } else {
            bucket.put_parts(&key, &mut reader).await?;
        }
        file.hash = Some(reader.finish()?);
        bytes += file.size_bytes;
    }
    Ok(bytes)
}

/// Holds the block that is in the bucket against the files in `dir`: the same span, the same files, and all of them
/// there. Returns its meta in the bucket.
fn compare(bucket: &Bucket, fs: &dyn Fs, own: &BlockMeta, dir: &Path, there: &[StoredObject]) -> Result<BlockMeta> {
    let key = format!("{}/{META_FILE}", own.ulid);
    let other = |reason: String| {
        let text = format!("{}: {key} is there and is left alone, but it is not this block's: {reason}", bucket.name());
        Error::new(ErrorKind::Corrupt, text)
    };
    let Some(content) = bucket.block_on(bucket.get(&key))? else {
        let text = format!("{}: {key} was there and is gone; trying again later", bucket.name());
        return Err(Error::new(ErrorKind::Io, text));
    };
    let found = BlockMeta::parse(&Path::new(bucket.name()).join(&key), &content)?;
    let thanos = ThanosMeta::of(&found)?.unwrap_or_default();
    let identity = |meta: &BlockMeta| (meta.ulid, meta.min_time, meta.max_time);
    if identity(&found) != identity(own) {
        return Err(other(format!("it spans {} to {}", found.min_time, found.max_time)));
    }
    for file in files_of(fs, dir)? {
        let path = &file.rel_path;
        let size = size_there(there, own.ulid, path);
        if size != Some(file.size_bytes) {
            return Err(other(format!("{path} has {size:?} bytes there and {} here", file.size_bytes)));
        }
        let Some(entry) = thanos.files.iter().find(|entry| entry.rel_path == *path) else {
            // Old writers named none.
            if thanos.files.is_empty() {
                continue;
            }
            return Err(other(format!("it does not name {path}")));
        };
        if entry.size_bytes != file.size_bytes {
            return Err(other(format!("it says {path} has {} bytes; it has {}", entry.size_bytes, file.size_bytes)));
        }
        if let Some(hash) = entry.hash.as_ref().filter(|hash| hash.func == "SHA256")
            && *hash.value != *hash_file(fs, &dir.join(path), &())?.value
        {
            return Err(other(format!("{path} has another sum")));
        }
    }
    Ok(found)
}

/// Checks what Thanos demands of a block: that it is whole, that chunks lie within the block's span, and that they are of
/// kinds that it reads. Returns how large series and chunks are, reckoned as Thanos's compactor does, from one to the next.
fn check(block: &Block, resolution: i64, any_encoding: bool) -> Result<IndexStats> {
    let mut stats = IndexStats::default();
    let align = if block.index().version() == Version::V1 { 1 } else { 16 };
    let span = block.time_range();
    let mut previous = None;
    block.index().verify(|id, labels, chunks| {
        if let Some(previous) = previous.replace(id.0) {
            stats.series_max_size = stats.series_max_size.max(u64::from(id.0 - previous) * align);
        }
        if chunks.is_empty() {
            return Err(BlockError::inconsistent(block.dir(), format!("{labels} has no chunks")).into());
        }
        for chunk in chunks {
            if chunk.min_time < span.min || chunk.max_time > span.max {
                let reason = format!("a chunk of {labels} lies outside the block's span: {chunk:?}");
                return Err(BlockError::inconsistent(block.dir(), reason).into());
            }
            let (encoding, _) = block.raw_chunk(chunk.reference)?;
            check_encoding(block.dir(), labels, encoding, resolution, any_encoding)?;
        }
        // All but the last pair, as there.
        let pairs = chunks.array_windows().take(chunks.len().saturating_sub(2));
        for [a, b] in pairs.filter(|[a, b]: &&[ChunkMeta; 2]| a.reference >> 32 == b.reference >> 32) {
            stats.chunk_max_size = stats.chunk_max_size.max(b.reference.saturating_sub(a.reference));
        }
        Ok(())
    })?;
    Ok(stats)
}

fn check_encoding(dir: &Path, labels: &Labels, byte: u8, resolution: i64, any: bool) -> Result<()> {
    let readable = match byte {
        1..=3 => true,
        AGGREGATES => resolution > 0,
        _ => any,
    };
    if readable {
        return Ok(());
    }
    let name = match Encoding::from_byte(byte) {
        Ok(encoding) => encoding.name().to_owned(),
        Err(_) if byte == AGGREGATES => "aggregates in a block that is not downsampled".to_owned(),
        Err(_) => format!("of encoding {byte}"),
    };
    let reason = format!("Thanos cannot read chunks of this kind: {name}, in {labels}");
    Err(BlockError::Unsupported { file: dir.to_owned(), reason }.into())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use sha2::{Digest, Sha256};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::block::BlockWriter;
    use crate::bucket::file_reader::hexadecimal;
    use crate::bucket::meta::FileHash;
    use crate::bucket::rewrite::REWRITE_DIR;
    use crate::chunk::EncodedChunk;
    use crate::db::{Db, Options};
    use crate::model::{Labels, TimeRange};

    const DIR: &str = "/data";

    struct Place {
        env: Env,
        bucket: Bucket,
        dir: PathBuf,
        // Its requests run there.
        _runtime: Runtime,
    }

    fn series(number: i64) -> Labels {
        Labels::from_pairs([("__name__", "up".to_owned()), ("i", number.to_string())])
    }

    /// A bucket without a block, and a block of three series.
    fn place() -> Place {
        let (env, _) = Env::simulated(1);
        let db = Db::open_with(&env, Path::new(DIR), Options { future_bound: None, ..Options::default() }).unwrap();
        let mut appender = db.appender();
        for number in 0..3 {
            for t in 0..500 {
                appender.append(None, &series(number), crate::fs::sim::START_MS + t * 1000, (t % 7) as f64).unwrap();
            }
        }
        appender.commit().unwrap();
        let block = db.flush().unwrap().written[0];
        db.close().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bucket = Bucket::new("memory", Arc::new(InMemory::new()), runtime.handle().clone());
        Place { env, bucket, dir: Path::new(DIR).join(block.to_string()), _runtime: runtime }
    }

    impl Place {
        fn upload(&self) -> Result<Uploaded> {
            upload_block(&self.bucket, &self.env, &self.dir, &options(), &())
        }

        fn uploaded(&self) -> BlockMeta {
            match self.upload().unwrap() {
                Uploaded::Now { meta, .. } => meta,
                other => panic!("{other:?}"),
            }
        }

        fn local(&self) -> BlockMeta {
            BlockMeta::read(self.env.fs.as_ref(), &self.dir).unwrap()
        }

        fn key(&self, file: &str) -> String {
            format!("{}/{file}", self.local().ulid)
        }

        fn object(&self, file: &str) -> Option<Bytes> {
            self.bucket.block_on(self.bucket.get(&self.key(file))).unwrap()
        }

        fn put(&self, file: &str, content: &[u8]) {
            self.bucket.block_on(self.bucket.put(&self.key(file), content.to_vec().into())).unwrap();
        }

        fn requests(&self) -> u64 {
            self.bucket.counts(super::super::Operation::Upload).requests
        }
    }

    fn options() -> UploadOptions {
        UploadOptions::new(Labels::from_pairs([("cluster", "a"), ("replica", "0")]))
    }

    #[test]
    fn the_files_are_there_and_the_meta_says_what_they_are() {
        let place = place();
        let meta = place.uploaded();
        for file in ["chunks/000001", "index"] {
            assert_eq!(place.object(file).unwrap(), place.env.fs.read(&place.dir.join(file)).unwrap());
        }
        let there = BlockMeta::parse(Path::new("meta.json"), &place.object("meta.json").unwrap()).unwrap();
        assert_eq!(there, meta);
        let local = place.local();
        assert_eq!((there.stats, there.compaction), (local.stats, local.compaction));
        assert!(local.extra.is_empty(), "the block itself stays as it is");
        assert_eq!(meta.compaction.sources, [meta.ulid]);
        let thanos = ThanosMeta::of(&meta).unwrap().unwrap();
        assert_eq!((thanos.version, thanos.downsample.resolution, thanos.source.as_str()), (1, 0, "receive"));
        assert_eq!(thanos.external_labels(), options().labels);
        assert_eq!(thanos.segment_files, ["000001"]);
        let files: Vec<_> = thanos.files.iter().map(|file| file.rel_path.as_str()).collect();
        assert_eq!(files, ["chunks/000001", "index", "meta.json"]);
        let index = place.env.fs.read(&place.dir.join("index")).unwrap();
        assert_eq!(thanos.size_of("index"), Some(index.len() as u64));
        assert_eq!(thanos.files[1].hash, Some(FileHash::sha256(hexadecimal(&Sha256::digest(index)))));
        assert_eq!(thanos.files[2], FileEntry { rel_path: "meta.json".to_owned(), ..FileEntry::default() });
        assert_eq!(thanos.upload_time, "2023-11-15T00:00:00Z");
        assert!(thanos.index_stats.series_max_size > 0 && thanos.index_stats.chunk_max_size > 0);
    }

    #[test]
    fn the_meta_is_written_as_thanos_writes_it() {
        let place = place();
        place.uploaded();
        let local = place.local();
        let sum = |file: &str| hexadecimal(&Sha256::digest(place.env.fs.read(&place.dir.join(file)).unwrap()));
        let size = |file: &str| place.env.fs.read(&place.dir.join(file)).unwrap().len();
        let there = String::from_utf8(place.object("meta.json").unwrap().to_vec()).unwrap();
        let thanos = ThanosMeta::of(&BlockMeta::parse(Path::new(""), there.as_bytes()).unwrap()).unwrap().unwrap();
        let IndexStats { series_max_size, chunk_max_size, .. } = thanos.index_stats;
        let own = String::from_utf8(local.to_json()).unwrap();
        let own = own.strip_suffix("\n}").unwrap();
        let expected = format!(
            r#"{own},
	"thanos": {{
		"version": 1,
		"labels": {{
			"cluster": "a",
			"replica": "0"
		}},
		"downsample": {{
			"resolution": 0
		}},
		"source": "receive",
		"segment_files": [
			"000001"
		],
		"files": [
			{{
				"rel_path": "chunks/000001",
				"size_bytes": {},
				"hash": {{
					"hashFunc": "SHA256",
					"value": "{}"
				}}
			}},
			{{
				"rel_path": "index",
				"size_bytes": {},
				"hash": {{
					"hashFunc": "SHA256",
					"value": "{}"
				}}
			}},
			{{
				"rel_path": "meta.json"
			}}
		],
		"index_stats": {{
			"series_max_size": {series_max_size},
			"chunk_max_size": {chunk_max_size}
		}},
		"upload_time": "2023-11-15T00:00:00Z"
	}}
}}
"#,
            size("chunks/000001"),
            sum("chunks/000001"),
            size("index"),
            sum("index"),
        );
        assert_eq!(there, expected);
    }

    #[test]
    fn large_files_go_in_parts() {
        let place = place();
        let whole = place.requests();
        let place = Place { bucket: place.bucket.clone().with_part_size(100), ..place };
        place.uploaded();
        assert!(place.requests() - whole > 10, "{} requests", place.requests());
        for file in ["chunks/000001", "index"] {
            assert_eq!(place.object(file).unwrap(), place.env.fs.read(&place.dir.join(file)).unwrap());
        }
    }

    #[test]
    fn a_block_that_is_there_is_not_sent_again() {
        let place = place();
        let meta = place.uploaded();
        let requests = place.requests();
        assert_eq!(place.upload().unwrap(), Uploaded::Already(meta));
        assert_eq!(place.requests(), requests);
    }

    #[test]
    fn what_a_cut_upload_left_is_not_sent_again_if_it_has_the_right_size() {
        let place = place();
        let chunks = place.env.fs.read(&place.dir.join("chunks/000001")).unwrap();
        place.put("chunks/000001", &chunks);
        place.put("index", b"torn");
        let before = place.requests();
        let meta = place.uploaded();
        assert_eq!(place.requests() - before, 2, "the index and the meta");
        let thanos = ThanosMeta::of(&meta).unwrap().unwrap();
        assert_eq!(thanos.files[0].hash, Some(FileHash::sha256(hexadecimal(&Sha256::digest(chunks)))));
    }

    #[test]
    fn another_block_by_the_same_name_is_left_alone() {
        for (file, change) in [("meta.json", "\"minTime\": 1,"), ("meta.json", "{"), ("index", "another index")] {
            let place = place();
            place.uploaded();
            let before = String::from_utf8(place.object("meta.json").unwrap().to_vec()).unwrap();
            let meta = match file {
                "meta.json" if change == "{" => change.to_owned(),
                "meta.json" => before.replace(&format!("\"minTime\": {},", place.local().min_time), change),
                _ => before,
            };
            place.put("meta.json", meta.as_bytes());
            if file == "index" {
                place.put("index", change.as_bytes());
            }
            let error = place.upload().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert_eq!(place.object("meta.json").unwrap(), meta);
        }
    }

    #[test]
    fn a_file_of_the_same_size_and_another_content_is_found_by_its_sum() {
        let place = place();
        let meta = place.uploaded();
        let mut thanos = ThanosMeta::of(&meta).unwrap().unwrap();
        thanos.files[0].hash = Some(FileHash::sha256("0".repeat(64)));
        let mut changed = meta;
        thanos.put_into(&mut changed);
        place.put("meta.json", &changed.to_json());
        let error = place.upload().unwrap_err();
        assert!(error.to_string().contains("chunks/000001 has another sum"), "{error}");
    }

    #[test]
    fn a_block_without_external_labels_is_refused() {
        let place = place();
        let none = UploadOptions::new(Labels::empty());
        let error = upload_block(&place.bucket, &place.env, &place.dir, &none, &()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(place.requests(), 0);
    }

    #[test]
    fn deleted_samples_do_not_come_back() {
        let place = place();
        let db =
            Db::open_with(&place.env, Path::new(DIR), Options { future_bound: None, ..Options::default() }).unwrap();
        let matcher = crate::model::Matcher::new(crate::model::MatchOp::Equal, "i", "1").unwrap();
        assert_eq!(db.delete(TimeRange::ALL, &[matcher]).unwrap(), 1);
        db.close().unwrap();
        let before = place.env.fs.read(&place.dir.join("index")).unwrap();
        let meta = place.uploaded();
        assert_eq!((meta.stats.num_series, meta.stats.num_samples, meta.stats.num_tombstones), (2, 1000, 0));
        assert_eq!(place.env.fs.read(&place.dir.join("index")).unwrap(), before, "the block itself stays as it is");
        // What is there is a block.
        for file in ["chunks/000001", "index", "meta.json"] {
            let path = Path::new("/again").join(place.key(file));
            place.env.fs.create_dir_all(path.parent().unwrap()).unwrap();
            place.env.fs.create(&path).unwrap().append(&place.object(file).unwrap()).unwrap();
        }
        let block = Block::open(place.env.fs.as_ref(), &Path::new("/again").join(meta.ulid.to_string())).unwrap();
        block.verify().unwrap();
        assert_eq!(block.label_values("i").unwrap(), ["0", "2"]);
        assert!(matches!(place.upload().unwrap(), Uploaded::Already(_)));
        assert_eq!(place.env.fs.list(&Path::new(DIR).join(REWRITE_DIR)).unwrap(), []);
    }

    #[test]
    fn a_block_whose_samples_are_all_deleted_is_nothing_to_send() {
        let place = place();
        let db =
            Db::open_with(&place.env, Path::new(DIR), Options { future_bound: None, ..Options::default() }).unwrap();
        assert_eq!(db.delete(TimeRange::ALL, &[]).unwrap(), 3);
        db.close().unwrap();
        assert_eq!(place.upload().unwrap(), Uploaded::Nothing);
        assert_eq!(place.requests(), 0);
    }

    #[test]
    fn a_deletion_after_the_upload_does_not_make_it_another_block() {
        let place = place();
        place.uploaded();
        let db =
            Db::open_with(&place.env, Path::new(DIR), Options { future_bound: None, ..Options::default() }).unwrap();
        assert_eq!(db.delete(TimeRange::ALL, &[]).unwrap(), 3);
        db.close().unwrap();
        assert!(matches!(place.upload().unwrap(), Uploaded::Already(_)));
    }

    #[test]
    fn chunks_that_thanos_cannot_read_are_refused_by_name_before_anything_is_sent() {
        let place = place();
        let source = Block::open(place.env.fs.as_ref(), &place.dir).unwrap();
        let meta = BlockMeta::new(crate::block::new_ulid(&place.env), source.meta().min_time, source.meta().max_time);
        let mut writer = BlockWriter::create(&place.env.fs, Path::new("/other"), meta).unwrap();
        for symbol in ["a", "b"] {
            writer.add_symbol(symbol).unwrap();
        }
        let t = source.meta().min_time;
        let chunk = crate::block::TimedChunk {
            min_time: t,
            max_time: t,
            chunk: EncodedChunk { encoding: Encoding::Xor2, data: Bytes::from_static(&[0, 1, 0, 0]) },
        };
        writer.add_series(&Labels::from_pairs([("a", "b")]), &[chunk]).unwrap();
        let ulid = writer.finish().unwrap().unwrap().ulid;
        let place = Place { dir: Path::new("/other").join(ulid.to_string()), ..place };
        let error = place.upload().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("XOR2"), "{error}");
        assert_eq!(place.requests(), 0);
        let any = UploadOptions { any_encoding: true, ..options() };
        let uploaded = upload_block(&place.bucket, &place.env, &place.dir, &any, &()).unwrap();
        assert!(matches!(uploaded, Uploaded::Now { .. }));
    }

    #[test]
    fn sizes_are_reckoned_as_thanos_reckons_them() {
        let env = Env::real();
        let bucket = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/thanos-0.43/bucket"));
        let mut seen = 0;
        for entry in env.fs.list(bucket).unwrap().into_iter().filter(|entry| entry.is_dir) {
            let block = Block::open(env.fs.as_ref(), &bucket.join(entry.name)).unwrap();
            let thanos = ThanosMeta::of(block.meta()).unwrap().unwrap();
            let stats = check(&block, thanos.downsample.resolution, false).unwrap();
            // Thanos fills it in for blocks that its compactor writes.
            if thanos.source == "compactor" {
                assert_eq!(stats, thanos.index_stats);
                seen += 1;
            }
        }
        assert_eq!(seen, 3);
    }
}
