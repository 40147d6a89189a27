//! Which bucket: Thanos's YAML file, so that one file serves its programs and these.
//!
//! ```yaml
//! type: S3                 # or FILESYSTEM
//! config:
//!   bucket: metrics
//!   endpoint: s3.eu-central-1.amazonaws.com
//! prefix: team-a           # may be left out
//! ```
//!
//! A key that Thanos knows and this does not use is warned of where it asks for something; a key that nobody knows is an
//! error, since it is a mistake in writing. What would store data otherwise than asked for is refused.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::Bucket;
use crate::block::meta::null_is_default;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Env, create_dir_durably};

/// What Thanos can also store in.
const OTHERS: [&str; 9] = ["AZURE", "GCS", "SWIFT", "COS", "ALIYUNOSS", "BOS", "OCI", "OBS", "HDFS"];
/// For sending a part, or receiving a large answer, over a slow line. The client's own 30 s are too few for 64 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request is sent again. The client's own 10 take minutes, for which a shipper would wait at each block of a
/// bucket that is away; it comes back to it anyway.
const MAX_RETRIES: usize = 5;
/// The least that S3 takes as a part of an object that is not its last.
const S3_PART_MIN: u64 = 5 << 20;

/// Where a bucket is, and how to get in.
#[derive(Clone)]
pub struct StoreConfig {
    /// The file that it was read from, for errors.
    file: PathBuf,
    place: Place,
    prefix: String,
    warnings: Vec<String>,
}

#[derive(Debug, Clone)]
enum Place {
    FileSystem(FileSystemConfig),
    S3(Box<S3Config>),
}

/// The file, whatever its type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "C: Default + DeserializeOwned")]
struct Document<C> {
    r#type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: C,
    #[serde(default)]
    prefix: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSystemConfig {
    #[serde(deserialize_with = "null_is_default")]
    directory: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct S3Config {
    #[serde(deserialize_with = "null_is_default")]
    bucket: String,
    #[serde(deserialize_with = "null_is_default")]
    endpoint: String,
    #[serde(deserialize_with = "null_is_default")]
    region: String,
    aws_sdk_auth: bool,
    #[serde(deserialize_with = "null_is_default")]
    access_key: String,
    #[serde(deserialize_with = "null_is_default")]
    secret_key: String,
    #[serde(deserialize_with = "null_is_default")]
    session_token: String,
    insecure: bool,
    signature_version2: bool,
    #[serde(deserialize_with = "null_is_default")]
    list_objects_version: String,
    bucket_lookup_type: BucketLookup,
    disable_multipart: bool,
    part_size: u64,
    #[serde(deserialize_with = "null_is_default")]
    sse_config: SseConfig,
    #[serde(deserialize_with = "null_is_default")]
    sts_endpoint: String,
    max_retries: u32,
    #[serde(deserialize_with = "null_is_default")]
    http_config: HttpConfig,
    // What follows is known and not used.
    disable_dualstack: Option<bool>,
    put_user_metadata: Option<Map<String, Value>>,
    trace: Option<Map<String, Value>>,
    send_content_md5: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BucketLookup {
    #[default]
    Auto,
    VirtualHosted,
    Path,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SseConfig {
    #[serde(deserialize_with = "null_is_default")]
    r#type: String,
    #[serde(deserialize_with = "null_is_default")]
    kms_key_id: String,
    kms_encryption_context: Option<Map<String, Value>>,
    #[serde(deserialize_with = "null_is_default")]
    encryption_key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpConfig {
    insecure_skip_verify: bool,
    #[serde(deserialize_with = "null_is_default")]
    tls_config: TlsConfig,
    // What follows is known and not used.
    idle_conn_timeout: Option<Value>,
    response_header_timeout: Option<Value>,
    tls_handshake_timeout: Option<Value>,
    expect_continue_timeout: Option<Value>,
    max_idle_conns: Option<Value>,
    max_idle_conns_per_host: Option<Value>,
    max_conns_per_host: Option<Value>,
    disable_compression: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsConfig {
    #[serde(deserialize_with = "null_is_default")]
    ca_file: String,
    insecure_skip_verify: bool,
    // What follows is known and not used.
    cert_file: Option<String>,
    key_file: Option<String>,
    server_name: Option<String>,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StoreConfig({})", self.name())
    }
}

impl fmt::Debug for S3Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are nobody's business.
        write!(out, "S3Config({} at {})", self.bucket, self.endpoint)
    }
}

impl StoreConfig {
    /// Reads the content of a configuration file; `file` is what errors call it. Nothing is asked for or looked at.
    ///
    /// # Errors
    /// `InvalidInput` with file and line: it is no YAML, a key is unknown or needed; `Unsupported` for a store that is
    /// not built yet, by its name.
    pub fn parse(file: &Path, yaml: &str) -> Result<Self> {
        let document: Document<IgnoredAny> = read(file, yaml)?;
        let place = match document.r#type.to_uppercase().as_str() {
            "FILESYSTEM" => Place::FileSystem(read::<Document<FileSystemConfig>>(file, yaml)?.config),
            "S3" => Place::S3(Box::new(read::<Document<S3Config>>(file, yaml)?.config)),
            other if OTHERS.contains(&other) => {
                let text = format!("{}: type: not supported yet: {other}", file.display());
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            _ => {
                let text = format!("type: {:?} is no object storage; FILESYSTEM and S3 are", document.r#type);
                return Err(invalid(file, text));
            }
        };
        // Thanos takes a prefix of slashes for none.
        let prefix = document.prefix.unwrap_or_default().trim_matches('/').to_owned();
        let warnings = match &place {
            Place::FileSystem(config) => config.check(file).map(|()| Vec::new())?,
            Place::S3(config) => {
                config.check(file)?;
                config.unused().into_iter().map(|key| format!("{}: {key} is not used", file.display())).collect()
            }
        };
        Ok(Self { file: file.to_owned(), place, prefix, warnings })
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// As [`parse`](StoreConfig::parse), and `Io`.
    pub fn read(env: &Env, file: &Path) -> Result<Self> {
        let named = |error| Error::from(error).context(file.display());
        let bytes = env.fs.read(file).map_err(named)?;
        let yaml = String::from_utf8(bytes).map_err(|error| invalid(file, error))?;
        Self::parse(file, &yaml)
    }

    /// What the file asks for and does not get, a line each, with the file's name and the key.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What errors and logs call the bucket: `s3://metrics/team-a`, `file:///srv/bucket`.
    #[must_use]
    pub fn name(&self) -> String {
        let place = match &self.place {
            Place::FileSystem(config) => format!("file://{}", config.directory),
            Place::S3(config) => format!("s3://{}", config.bucket),
        };
        if self.prefix.is_empty() { place } else { format!("{place}/{}", self.prefix) }
    }

    /// The bucket; its requests run on `runtime`. A FILESYSTEM's directory is created; nothing is asked of an S3.
    ///
    /// # Errors
    /// `InvalidInput` for what the client refuses; `Io` for the directory, or the file of certificates.
    pub fn open(&self, runtime: &Handle) -> Result<Bucket> {
        let (store, part_size): (Arc<dyn ObjectStore>, _) = match &self.place {
            Place::FileSystem(config) => (Arc::new(config.open()?), None),
            Place::S3(config) => (Arc::new(config.open(&self.file)?), config.part_size()),
        };
        let store = match self.prefix.as_str() {
            "" => store,
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        };
        let bucket = Bucket::new(self.name(), store, runtime.clone());
        Ok(match part_size {
            None => bucket,
            Some(bytes) => bucket.with_part_size(bytes),
        })
    }
}

/// Reads the YAML; an error says the file and the line.
fn read<T: DeserializeOwned>(file: &Path, yaml: &str) -> Result<T> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(yaml, options).map_err(|error| {
        let text = error.to_string();
        // The place stands before the text, as compilers write it.
        let place = error.location().map(|at| (at.line(), at.column())).filter(|(line, _)| *line > 0);
        match place {
            Some((line, column)) => {
                let reason = text.split(" at line ").next().unwrap_or(&text);
                let text = format!("{}:{line}:{column}: {reason}", file.display());
                Error::new(ErrorKind::InvalidInput, text)
            }
            None => invalid(file, text),
        }
    })
}

fn invalid(file: &Path, reason: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{}: {reason}", file.display()))
}

impl FileSystemConfig {
    fn check(&self, file: &Path) -> Result<()> {
        if self.directory.is_empty() {
            return Err(invalid(file, "config.directory is needed"));
        }
        Ok(())
    }

    fn open(&self) -> Result<LocalFileSystem> {
        let named = |error: std::io::Error| Error::from(error).context(&self.directory);
        let (env, directory) = (Env::real(), Path::new(&self.directory));
        // One that is there may belong to somebody who lets nobody else write.
        if env.fs.stat(directory).map_err(named)?.is_none() {
            create_dir_durably(env.fs.as_ref(), directory).map_err(named)?;
        }
        let store = LocalFileSystem::new_with_prefix(&self.directory).map_err(|error| named(error.into()))?;
        // A block is dropped locally once it is here: it must survive a power cut.
        Ok(store.with_fsync(true))
    }
}

impl S3Config {
    fn check(&self, file: &Path) -> Result<()> {
        let wrong = |reason: &str| Err(invalid(file, reason));
        let unsupported = |what: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("{}: not supported yet: {what}", file.display())))
        };
        match (self.bucket.as_str(), self.endpoint.as_str()) {
            ("", _) => return wrong("config.bucket is needed"),
            (_, "") => return wrong("config.endpoint is needed"),
            _ => {}
        }
        match (self.access_key.is_empty(), self.secret_key.is_empty()) {
            (true, false) => return wrong("config.secret_key is there, and config.access_key is not"),
            (false, true) => return wrong("config.access_key is there, and config.secret_key is not"),
            (false, false) if self.aws_sdk_auth => {
                return wrong("config.aws_sdk_auth and config.access_key exclude each other");
            }
            _ => {}
        }
        if self.signature_version2 {
            return unsupported("config.signature_version2");
        }
        match self.list_objects_version.as_str() {
            "" | "v2" => {}
            "v1" => return unsupported("config.list_objects_version: v1"),
            _ => return wrong("config.list_objects_version is neither v1 nor v2"),
        }
        if self.part_size != 0 && self.part_size < S3_PART_MIN && !self.disable_multipart {
            return wrong("config.part_size is less than 5242880, which S3 does not take");
        }
        match self.sse_config.r#type.as_str() {
            "" | "SSE-S3" => Ok(()),
            "SSE-KMS" if self.sse_config.kms_key_id.is_empty() => {
                wrong("config.sse_config.kms_key_id is needed for SSE-KMS")
            }
            "SSE-KMS" => Ok(()),
            // To go on without it would store what must not lie open.
            "SSE-C" => unsupported("config.sse_config.type: SSE-C"),
            _ => wrong("config.sse_config.type is none of SSE-S3, SSE-KMS and SSE-C"),
        }
    }

    /// The keys that ask for something and are not used.
    fn unused(&self) -> Vec<&'static str> {
        fn asks<T: serde::Serialize>(value: &Option<T>, default: Value) -> bool {
            value.as_ref().is_some_and(|value| {
                let value = serde_json::to_value(value).unwrap_or_default();
                !value.is_null() && value != default
            })
        }
        let (http, tls) = (&self.http_config, &self.http_config.tls_config);
        let trace = self.trace.as_ref().and_then(|trace| trace.get("enable"));
        // Each with what Thanos takes it for if it is not there, as its example file has it.
        let keys = [
            ("config.disable_dualstack", asks(&self.disable_dualstack, json!(false))),
            ("config.put_user_metadata", asks(&self.put_user_metadata, json!({}))),
            ("config.trace", asks(&trace, json!(false))),
            ("config.send_content_md5", asks(&self.send_content_md5, json!(true))),
            ("config.sse_config.kms_encryption_context", asks(&self.sse_config.kms_encryption_context, json!({}))),
            ("config.sse_config.encryption_key", !self.sse_config.encryption_key.is_empty()),
            ("config.http_config.idle_conn_timeout", asks(&http.idle_conn_timeout, json!("1m30s"))),
            ("config.http_config.response_header_timeout", asks(&http.response_header_timeout, json!("2m"))),
            ("config.http_config.tls_handshake_timeout", asks(&http.tls_handshake_timeout, json!("10s"))),
            ("config.http_config.expect_continue_timeout", asks(&http.expect_continue_timeout, json!("1s"))),
            ("config.http_config.max_idle_conns", asks(&http.max_idle_conns, json!(100))),
            ("config.http_config.max_idle_conns_per_host", asks(&http.max_idle_conns_per_host, json!(100))),
            ("config.http_config.max_conns_per_host", asks(&http.max_conns_per_host, json!(0))),
            ("config.http_config.disable_compression", asks(&http.disable_compression, json!(false))),
            ("config.http_config.tls_config.cert_file", asks(&tls.cert_file, json!(""))),
            ("config.http_config.tls_config.key_file", asks(&tls.key_file, json!(""))),
            ("config.http_config.tls_config.server_name", asks(&tls.server_name, json!(""))),
        ];
        keys.into_iter().filter(|(_, asks)| *asks).map(|(key, _)| key).collect()
    }

    fn part_size(&self) -> Option<u64> {
        match (self.disable_multipart, self.part_size) {
            (true, _) => Some(u64::MAX),
            (false, 0) => None,
            (false, bytes) => Some(bytes),
        }
    }

    /// Scheme, host and port.
    fn base(&self) -> (&str, &str) {
        let host = self.endpoint.trim_end_matches('/');
        match host.split_once("://") {
            Some(parts) => parts,
            None if self.insecure => ("http", host),
            None => ("https", host),
        }
    }

    /// The region, or the one that an endpoint of Amazon's names.
    fn region(&self) -> Option<&str> {
        if !self.region.is_empty() {
            return Some(&self.region);
        }
        let name = self.base().1.strip_suffix(".amazonaws.com")?;
        let name = name.strip_prefix("s3.").or_else(|| name.strip_prefix("s3-"))?;
        Some(name.strip_prefix("dualstack.").unwrap_or(name))
    }

    fn is_virtual_hosted(&self) -> bool {
        match self.bucket_lookup_type {
            BucketLookup::VirtualHosted => true,
            BucketLookup::Path => false,
            // A dot in the bucket's name would not pass the certificate's wildcard.
            BucketLookup::Auto => self.base().1.ends_with(".amazonaws.com") && !self.bucket.contains('.'),
        }
    }

    fn open(&self, file: &Path) -> Result<impl ObjectStore + use<>> {
        use_one_crypto_provider();
        let refused = |error: object_store::Error| invalid(file, error);
        let (scheme, host) = self.base();
        let mut builder = if self.access_key.is_empty() {
            // The environment's keys, a role's token, or the machine's own identity.
            AmazonS3Builder::from_env()
        } else {
            let builder =
                AmazonS3Builder::new().with_access_key_id(&self.access_key).with_secret_access_key(&self.secret_key);
            match self.session_token.as_str() {
                "" => builder,
                token => builder.with_token(token),
            }
        };
        if let Some(region) = self.region() {
            builder = builder.with_region(region);
        }
        let virtual_hosted = self.is_virtual_hosted();
        let endpoint = match virtual_hosted {
            true => format!("{scheme}://{}.{host}", self.bucket),
            false => format!("{scheme}://{host}"),
        };
        let mut client = ClientOptions::new()
            .with_allow_http(scheme == "http")
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT);
        let (http, tls) = (&self.http_config, &self.http_config.tls_config);
        if http.insecure_skip_verify || tls.insecure_skip_verify {
            client = client.with_allow_invalid_certificates(true);
        }
        if !tls.ca_file.is_empty() {
            let named = |error| Error::from(error).context(&tls.ca_file);
            let pem = Env::real().fs.read(Path::new(&tls.ca_file)).map_err(named)?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(refused)? {
                client = client.with_root_certificate(certificate);
            }
        }
        match self.sse_config.r#type.as_str() {
            "SSE-S3" => {
                let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(refused)?;
                builder = builder.with_config(key, "AES256");
            }
            "SSE-KMS" => builder = builder.with_sse_kms_encryption(&self.sse_config.kms_key_id),
            _ => {}
        }
        if !self.sts_endpoint.is_empty() {
            let key: AmazonS3ConfigKey = "aws_endpoint_url_sts".parse().map_err(refused)?;
            builder = builder.with_config(key, &self.sts_endpoint);
        }
        let max_retries = if self.max_retries == 0 { MAX_RETRIES } else { self.max_retries as usize };
        builder
            .with_retry(RetryConfig { max_retries, ..RetryConfig::default() })
            .with_bucket_name(&self.bucket)
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(virtual_hosted)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client)
            .build()
            .map_err(refused)
    }
}

/// The TLS library is built without a provider of its own; one that the program has chosen stays.
fn use_one_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race against another caller leaves the other's, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<StoreConfig> {
        StoreConfig::parse(Path::new("bucket.yml"), yaml)
    }

    fn s3(config: &str) -> S3Config {
        let yaml = format!("type: S3\nconfig:\n  bucket: b\n  {config}\n");
        let Place::S3(config) = parse(&yaml).unwrap().place else { panic!("no S3") };
        *config
    }

    /// What Thanos prints as the example for S3, with what is needed filled in.
    const EXAMPLE: &str = r#"
type: S3
config:
  bucket: "metrics"
  endpoint: "localhost:9000"
  region: ""
  disable_dualstack: false
  aws_sdk_auth: false
  access_key: "id"
  insecure: true
  signature_version2: false
  secret_key: "secret"
  session_token: ""
  put_user_metadata: {}
  http_config:
    idle_conn_timeout: 1m30s
    response_header_timeout: 2m
    insecure_skip_verify: false
    tls_handshake_timeout: 10s
    expect_continue_timeout: 1s
    max_idle_conns: 100
    max_idle_conns_per_host: 100
    max_conns_per_host: 0
    tls_config:
      ca_file: ""
      cert_file: ""
      key_file: ""
      server_name: ""
      insecure_skip_verify: false
    disable_compression: false
  trace:
    enable: false
  list_objects_version: ""
  bucket_lookup_type: auto
  send_content_md5: true
  disable_multipart: false
  part_size: 67108864
  sse_config:
    type: ""
    kms_key_id: ""
    kms_encryption_context: {}
    encryption_key: ""
  sts_endpoint: ""
  max_retries: 0
prefix: "/team-a/"
"#;

    #[test]
    fn the_example_of_thanos_is_read_without_a_warning_and_opens() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.warnings(), [] as [&str; 0]);
        assert_eq!(config.name(), "s3://metrics/team-a");
        assert!(!format!("{config:?}").contains("secret"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(config.open(runtime.handle()).unwrap().name(), "s3://metrics/team-a");
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_warned_of_by_its_key() {
        let yaml = EXAMPLE
            .replace("idle_conn_timeout: 1m30s", "idle_conn_timeout: 5s")
            .replace("enable: false", "enable: true")
            .replace("put_user_metadata: {}", "put_user_metadata: {a: b}");
        assert_eq!(
            parse(&yaml).unwrap().warnings(),
            [
                "bucket.yml: config.put_user_metadata is not used",
                "bucket.yml: config.trace is not used",
                "bucket.yml: config.http_config.idle_conn_timeout is not used",
            ]
        );
    }

    #[test]
    fn a_key_that_nobody_knows_is_an_error_with_file_line_and_key() {
        for (yaml, line, key) in [
            ("type: S3\nconfig:\n  bucket: b\n  endpoint: e\n  buckte: c\n", 5, "buckte"),
            ("type: FILESYSTEM\nconfig:\n  directory: d\n  fsync: true\n", 4, "fsync"),
            ("type: FILESYSTEM\nprefxi: d\n", 2, "prefxi"),
            ("type: S3\nconfig:\n  http_config:\n    tls_config:\n      caa: 1\n", 5, "caa"),
        ] {
            let error = parse(yaml).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(text.starts_with(&format!("bucket.yml:{line}:")) && text.contains(key), "{text}");
        }
    }

    #[test]
    fn stores_that_are_not_built_yet_are_refused_by_name() {
        for name in OTHERS {
            let error = parse(&format!("type: {name}\nconfig:\n  container: x\n")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().ends_with(&format!("not supported yet: {name}")), "{error}");
        }
        assert_eq!(parse("type: FLOPPY\n").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_needed_and_what_excludes_each_other_is_said() {
        for (config, reason) in [
            ("bucket: b", "config.endpoint is needed"),
            ("endpoint: e", "config.bucket is needed"),
            ("{bucket: b, endpoint: e, secret_key: s}", "config.access_key is not"),
            ("{bucket: b, endpoint: e, access_key: s}", "config.secret_key is not"),
            ("{bucket: b, endpoint: e, access_key: s, secret_key: s, aws_sdk_auth: true}", "exclude"),
            ("{bucket: b, endpoint: e, signature_version2: true}", "not supported yet"),
            ("{bucket: b, endpoint: e, sse_config: {type: SSE-C}}", "not supported yet"),
            ("{bucket: b, endpoint: e, sse_config: {type: SSE-KMS}}", "kms_key_id"),
            ("{bucket: b, endpoint: e, part_size: 5}", "part_size"),
        ] {
            let error = parse(&format!(
                "type: s3\nconfig: {}\n",
                if config.starts_with('{') { config.to_owned() } else { format!("{{{config}}}") }
            ))
            .unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn an_empty_value_is_as_if_its_key_were_not_there() {
        let config = s3("endpoint: e\n  region:\n  http_config:\n  sse_config:\n    type: ~\nprefix:");
        assert_eq!((config.endpoint.as_str(), config.region()), ("e", None));
        assert!(parse("type: FILESYSTEM\nconfig:\n").unwrap_err().to_string().contains("config.directory is needed"));
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_https_unless_insecure() {
        assert_eq!(s3("endpoint: e:9000").base(), ("https", "e:9000"));
        assert_eq!(s3("endpoint: e:9000\n  insecure: true").base(), ("http", "e:9000"));
        assert_eq!(s3("endpoint: http://e/").base(), ("http", "e"));
    }

    #[test]
    fn amazon_s_endpoints_name_their_region_and_put_the_bucket_into_the_host() {
        let amazon = s3("endpoint: s3.dualstack.eu-west-1.amazonaws.com");
        assert_eq!((amazon.region(), amazon.is_virtual_hosted()), (Some("eu-west-1"), true));
        assert_eq!(s3("endpoint: s3-eu-west-1.amazonaws.com\n  region: x").region(), Some("x"));
        let own = s3("endpoint: minio:9000");
        assert_eq!((own.region(), own.is_virtual_hosted()), (None, false));
        assert!(s3("endpoint: minio:9000\n  bucket_lookup_type: virtual-hosted").is_virtual_hosted());
    }
}
