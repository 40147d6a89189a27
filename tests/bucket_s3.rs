//! The bucket against a real S3 server. Ignored, since it needs one: `NARTHEX_S3SFS=/path/to/s3s-fs cargo test --test
//! bucket_s3 -- --ignored`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use narthex::block::{Block, BlockRead};
use narthex::bucket::{Bucket, Operation, ShipOptions, Shipper, StoreConfig, UploadOptions};
use narthex::db::{Db, Options};
use narthex::fs::Env;
use narthex::model::Labels;
use tokio::runtime::Runtime;

const PART: u64 = 5 << 20;

/// A server, and where it keeps its objects; both go with the value.
struct Server {
    process: Child,
    root: PathBuf,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let program = std::env::var_os("NARTHEX_S3SFS").expect("NARTHEX_S3SFS is the path of s3s-fs");
        let root = std::env::temp_dir().join(format!("narthex-s3-{}", std::process::id()));
        let env = Env::real();
        if env.fs.stat(&root).unwrap().is_some() {
            env.fs.remove_dir_all(&root).unwrap();
        }
        env.fs.create_dir_all(&root.join("metrics")).unwrap();
        // Free now; nobody else on this machine is quick enough to take it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--access-key", "id", "--secret-key", "secret"])
            .arg(&root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, root, port };
        let bell = env.executor.waiter();
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            bell.wait(std::time::Duration::from_millis(20));
        }
        unreachable!("the server does not listen");
    }

    fn bucket(&self, runtime: &Runtime, more: &str) -> Bucket {
        let yaml = format!(
            "type: S3\nconfig:\n  bucket: metrics\n  endpoint: 127.0.0.1:{}\n  insecure: true\n  access_key: id\n  \
             secret_key: secret\n  part_size: {PART}\n{more}",
            self.port
        );
        StoreConfig::parse(Path::new("bucket.yml"), &yaml).unwrap().open(runtime.handle()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Env::real().fs.remove_dir_all(&self.root);
    }
}

#[test]
#[ignore = "needs an S3 server: NARTHEX_S3SFS"]
fn s3() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bucket = server.bucket(&runtime, "prefix: team-a\n");
    bucket.block_on(objects(&bucket));
    ships_a_block(&bucket);
    // The prefix was used.
    let whole = server.bucket(&runtime, "");
    let keys = whole.block_on(whole.list("")).unwrap();
    assert!(!keys.is_empty() && keys.iter().all(|object| object.key.starts_with("team-a/")), "{keys:?}");
    // Another key is let in nowhere, and the error names bucket, operation and key.
    let yaml = format!(
        "type: S3\nconfig: {{bucket: metrics, endpoint: 'http://127.0.0.1:{}', access_key: id, secret_key: wrong}}\n",
        server.port
    );
    let wrong = StoreConfig::parse(Path::new("bucket.yml"), &yaml).unwrap().open(runtime.handle()).unwrap();
    let error = wrong.block_on(wrong.get("a/index")).unwrap_err().to_string();
    assert!(error.starts_with("s3://metrics: get a/index: "), "{error}");
}

async fn objects(bucket: &Bucket) {
    assert_eq!(bucket.list("").await.unwrap(), []);
    assert_eq!(bucket.get("a/none").await.unwrap(), None);
    assert!(!bucket.exists("a/none").await.unwrap());
    bucket.put("a/one", "0123456789".into()).await.unwrap();
    assert!(bucket.exists("a/one").await.unwrap());
    assert_eq!(bucket.get("a/one").await.unwrap().unwrap(), "0123456789");
    assert_eq!(bucket.get_range("a/one", 3..6).await.unwrap(), "345");
    assert_eq!(bucket.get_range("a/one", 8..100).await.unwrap(), "89");
    // The second does not write, and says so.
    assert!(bucket.put_if_absent("a/two", "first".into()).await.unwrap());
    assert!(!bucket.put_if_absent("a/two", "second".into()).await.unwrap());
    assert_eq!(bucket.get("a/two").await.unwrap().unwrap(), "first");
    // In parts, each of its own content.
    let content: Vec<u8> = (0..2 * PART + 1000).map(|at| (at * 7 / 1000) as u8).collect();
    let parts = content.chunks(usize::try_from(PART).unwrap()).map(|part| Ok(part.to_vec().into()));
    bucket.put_parts("b/large", parts.collect::<Vec<_>>()).await.unwrap();
    assert!(bucket.get("b/large").await.unwrap().unwrap() == content);
    let listed: Vec<_> = bucket.list("").await.unwrap().into_iter().map(|object| (object.key, object.size)).collect();
    let large = content.len() as u64;
    assert_eq!(listed, [("a/one".to_owned(), 10), ("a/two".to_owned(), 5), ("b/large".to_owned(), large)]);
    assert_eq!(bucket.list("a").await.unwrap().len(), 2);
    for key in ["a/one", "a/two", "b/large", "b/large"] {
        bucket.delete(key).await.unwrap();
    }
    assert_eq!(bucket.list("").await.unwrap(), []);
    assert_eq!(bucket.counts(Operation::Delete).failures, 0);
}

fn ships_a_block(bucket: &Bucket) {
    let (env, _) = Env::simulated(1);
    let data = Path::new("/data");
    let db = Db::open_with(&env, data, Options { future_bound: None, ..Options::default() }).unwrap();
    let mut appender = db.appender();
    let now = env.clock.now_ms();
    for second in 0..600 {
        let labels = Labels::from_pairs([("__name__", "up")]);
        appender.append(None, &labels, now + second * 1000, (second % 5) as f64).unwrap();
    }
    appender.commit().unwrap();
    let ulid = db.flush().unwrap().written[0];
    let upload = UploadOptions::new(Labels::from_pairs([("cluster", "a")]));
    let options = ShipOptions { upload, compacted: false };
    let ship = || Shipper::new(&env, bucket, data, options.clone(), None).unwrap().ship(&()).unwrap();
    assert_eq!(ship().uploaded, [ulid]);
    assert_eq!(ship().uploaded, []);
    env.fs.remove_file(&data.join("thanos.shipper.json")).unwrap();
    assert_eq!(ship().found, [ulid]);
    // What comes back is the block.
    for object in bucket.block_on(bucket.list(&ulid.to_string())).unwrap() {
        let path = Path::new("/again").join(&object.key);
        env.fs.create_dir_all(path.parent().unwrap()).unwrap();
        let content = bucket.block_on(bucket.get(&object.key)).unwrap().unwrap();
        assert_eq!(content.len() as u64, object.size);
        env.fs.create(&path).unwrap().append(&content).unwrap();
    }
    let block = Block::open(env.fs.as_ref(), &Path::new("/again").join(ulid.to_string())).unwrap();
    block.verify().unwrap();
    assert_eq!(block.select(&[]).unwrap().len(), 1);
}
