//! A directory and buckets as one storage.

use std::sync::Arc;

use narthex::error::{Error, ErrorKind, Result};
use narthex::model::Labels;
use narthex::query::{Merged, Source, WithLabels};
use narthex::wire::remote_write::WriteRequest;

use crate::directory::Directory;
use crate::objstore::Buckets;
use crate::storage::{BlocksStatus, Gauges, Storage, StorageStatus, Written};

/// A directory, buckets, or both. Where both have a sample, the directory's is seen.
pub struct Combined {
    directory: Option<Arc<dyn Directory>>,
    labels: Labels,
    buckets: Option<Arc<Buckets>>,
}

impl Combined {
    /// A storage of `directory`, whose series get `labels`, and of `buckets`.
    #[must_use]
    pub fn new(directory: Option<Arc<dyn Directory>>, labels: Labels, buckets: Option<Arc<Buckets>>) -> Self {
        Self { directory, labels, buckets }
    }
}

impl Storage for Combined {
    fn source(&self) -> Result<Box<dyn Source>> {
        // The directory first: see `objstore`.
        let view = self.directory.as_ref().map(|directory| directory.view()).transpose()?;
        let seen = view.iter().flat_map(|view| view.blocks().iter().copied()).collect();
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        sources.extend(view.map(|view| Arc::new(WithLabels::new(view, self.labels.clone())) as Arc<dyn Source>));
        sources.extend(self.buckets.iter().flat_map(|buckets| buckets.sources(&seen)));
        Ok(Box::new(Merged::new(sources)))
    }

    fn write(&self, request: &WriteRequest) -> Result<Written> {
        match &self.directory {
            Some(directory) => directory.write(request),
            None => Err(Error::new(ErrorKind::Unsupported, "nothing is written here: there is no data directory")),
        }
    }

    fn takes_writes(&self) -> bool {
        self.directory.as_ref().is_some_and(|directory| directory.takes_writes())
    }

    fn gauges(&self) -> Gauges {
        self.directory.as_ref().map(|directory| directory.gauges()).unwrap_or_default()
    }

    fn status(&self, limit: usize) -> Result<StorageStatus> {
        self.directory.as_ref().map_or_else(|| Ok(StorageStatus::default()), |directory| directory.status(limit))
    }

    fn blocks(&self) -> Result<BlocksStatus> {
        let mut status = match &self.directory {
            Some(directory) => directory.blocks()?,
            None => BlocksStatus::default(),
        };
        if let Some(buckets) = &self.buckets {
            buckets.status(&mut status);
        }
        Ok(status)
    }
}
