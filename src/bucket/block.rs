//! Reading one block where it lies, a step at a time: header, postings, series. Each step is one round of requests.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;

use super::listed::ListedBlock;
use super::range_cache::{FileId, Pages, Part, RangeCache};
use super::{Bucket, header};
use crate::block::{CHUNKS_DIR, INDEX_FILE, segment_name};
use crate::budget::Budget;
use crate::codec::FixedMap;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Env;
use crate::index::{ChunkMeta, IndexHeader, ListPlace, Postings, PostingsSource, SeriesId, postings_for_matchers};
use crate::model::{Labels, Matcher};

/// How much of a postings list is read first where the table does not tell its length.
const LIST_GUESS: u64 = 4 << 10;
/// The largest series record that is expected where `meta.json` does not tell: Thanos's number.
const SERIES_MAX: u64 = 64 << 10;
/// A record that says it is longer than this is not believed: it would have tens of millions of chunks.
const SERIES_LONGEST: u64 = 64 << 20;
/// The least that is read for a series record.
const SERIES_MIN: u64 = 512;

/// What all blocks of a bucket are read with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bucket: Bucket,
    pub(super) cache: Arc<RangeCache>,
    pub(super) space: u32,
    pub(super) env: Env,
    pub(super) cache_dir: Option<PathBuf>,
}

/// A block where it lies.
#[derive(Debug)]
pub(super) struct BucketBlock {
    pub(super) shared: Arc<Shared>,
    pub(super) listed: Arc<ListedBlock>,
}

/// Bytes charged to a query's budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: u64,
}

impl Charge {
    pub(super) fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: u64) -> Result<()> {
        // Counted even if it is refused: it is given back either way.
        self.bytes += bytes;
        self.budget.take_bytes(bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_bytes(self.bytes);
    }
}

/// The series that pass the matchers, as far as the postings tell.
#[derive(Debug)]
pub(super) struct Selected {
    /// Ascending.
    pub(super) ids: Vec<u32>,
    /// Matchers whose lists would have cost more to fetch than the series that they might refuse: to be asked about each
    /// series' labels.
    pub(super) late: Vec<Matcher>,
}

impl BucketBlock {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.listed.ulid)
    }

    /// What errors call a file.
    pub(super) fn file_name(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.shared.bucket.name(), self.listed.ulid)
    }

    fn file(&self, part: Part) -> FileId {
        FileId { space: self.shared.space, ulid: self.listed.ulid, part }
    }

    fn size_of(&self, name: &str) -> Result<u64> {
        self.listed.size_of(name).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{}: the bucket has no such object", self.file_name(name)))
        })
    }

    /// The header of its index.
    pub(super) async fn header(&self) -> Result<Arc<IndexHeader>> {
        let ulid = self.listed.ulid;
        self.shared.cache.header(self.shared.space, ulid, self.load_header()).await
    }

    /// The header from the disk or the bucket, and the bytes that it holds in memory.
    async fn load_header(&self) -> Result<(IndexHeader, u64)> {
        let name = self.file_name(INDEX_FILE);
        let size = self.size_of(INDEX_FILE)?;
        let fs = &*self.shared.env.fs;
        let path = self.shared.cache_dir.as_deref().map(|dir| header::path(dir, self.listed.ulid));
        let open = |path: &std::path::Path| {
            let bytes = fs.map(path)?;
            let header = header::open_file(path, &bytes, &name, size)?;
            let memory = header.memory() as u64;
            Ok::<_, Error>((header, memory))
        };
        if let Some(path) = &path
            && matches!(fs.stat(path), Ok(Some(_)))
        {
            match open(path) {
                Ok(header) => return Ok(header),
                Err(error) => {
                    tracing::warn!(%error, "a header is fetched again");
                    // A file that stays is opened in vain next time too.
                    let _ = fs.remove_file(path);
                }
            }
        }
        let fetched = header::fetch(&self.shared.bucket, &self.key(INDEX_FILE), size).await?;
        // Lists, and of a small index everything, come with the table and need not be asked for again.
        let (start, end) = &fetched.end;
        self.shared.cache.put(self.file(Part::Index), size, *start, end, fetched.table);
        let header = fetched.open(&name)?;
        if let Some(path) = &path {
            match header::keep(fs, path, &fetched.to_file()) {
                // Out of the file it takes less memory.
                Ok(()) => return open(path),
                Err(error) => tracing::warn!(%error, path = %path.display(), "a header cannot be kept"),
            }
        }
        let memory = header.memory() + header.section_bytes();
        Ok((header, memory as u64))
    }

    async fn read_index(&self, ranges: impl IntoIterator<Item = std::ops::Range<u64>>) -> Result<Pages> {
        let (key, size) = (self.key(INDEX_FILE), self.size_of(INDEX_FILE)?);
        self.shared.cache.read(&self.shared.bucket, &key, self.file(Part::Index), size, ranges).await
    }

    /// Reads ranges of a segment, counted from 0, and answers with its size too.
    pub(super) async fn read_segment(
        &self,
        number: u32,
        ranges: impl IntoIterator<Item = std::ops::Range<u64>>,
    ) -> Result<Pages> {
        let name = format!("{CHUNKS_DIR}/{}", segment_name(number as usize));
        let (key, size) = (self.key(&name), self.size_of(&name)?);
        self.shared.cache.read(&self.shared.bucket, &key, self.file(Part::Segment(number)), size, ranges).await
    }

    /// Bytes that a series record takes on average.
    fn average_series(&self, header: &IndexHeader) -> u64 {
        let section = header.series_section();
        (section.end - section.start) / self.listed.series.max(1) + 1
    }

    /// The series that pass `matchers`: one round of requests.
    pub(super) async fn select(
        &self,
        header: &IndexHeader,
        matchers: &[Matcher],
        charge: &mut Charge,
    ) -> Result<Selected> {
        let nothing = Selected { ids: Vec::new(), late: Vec::new() };
        let mut plans = Vec::with_capacity(matchers.len());
        for matcher in matchers {
            // One at a time: what one matcher needs does not depend on what the others find.
            let plan = Plan::new(header);
            if postings_for_matchers(&plan, std::slice::from_ref(matcher))?.is_empty() {
                return Ok(nothing);
            }
            plans.push((matcher, plan.places.into_inner(), plan.all.get()));
        }
        // A matcher that starts from all series only takes some away. If every one does, all are needed.
        let least = plans.iter().filter(|(_, _, all)| !all).map(|(_, places, _)| bytes_of(places)).min();
        let worth = least.map_or(u64::MAX, |bytes| (bytes / 4).saturating_mul(self.average_series(header)));
        let (mut places, mut early, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for (matcher, own, all) in plans {
            let bytes = bytes_of(&own);
            if bytes > worth && (all || Some(bytes) != least) {
                late.push(matcher.clone());
            } else {
                places.extend(own);
                early.push(matcher.clone());
            }
        }
        if least.is_none() {
            match header.list_place("", "")? {
                Some(all) => places.push(all),
                None => return Ok(nothing),
            }
        }
        let lists = self.lists(header, &places, charge).await?;
        let ids = postings_for_matchers(&Fetched { header, lists: &lists }, &early)?.into_vec();
        Ok(Selected { ids, late })
    }

    /// Reads postings lists, in one round where the table tells their lengths.
    async fn lists(
        &self,
        header: &IndexHeader,
        places: &[ListPlace],
        charge: &mut Charge,
    ) -> Result<FixedMap<u64, Postings>> {
        let range =
            |place: &ListPlace| place.offset..place.end.unwrap_or_else(|| place.offset.saturating_add(LIST_GUESS));
        let mut pages = self.read_index(places.iter().map(range)).await?;
        let longer: Vec<_> = places
            .iter()
            // Where the table tells the end, no list goes beyond it.
            .filter(|place| place.end.is_none())
            .filter_map(|place| {
                let bytes = pages.slice(range(place));
                let len = IndexHeader::list_len(&bytes).filter(|len| *len > bytes.len() as u64)?;
                Some(place.offset..place.offset.checked_add(len)?)
            })
            .collect();
        if !longer.is_empty() {
            pages.extend(self.read_index(longer).await?);
        }
        charge.add(pages.bytes())?;
        let mut lists = FixedMap::default();
        for place in places {
            let len = pages.slice(place.offset..place.offset.saturating_add(4));
            let len = IndexHeader::list_len(&len).unwrap_or(0);
            let bytes = pages.slice(place.offset..place.offset.saturating_add(len));
            lists.insert(place.offset, header.read_list(place.offset, &bytes)?);
        }
        Ok(lists)
    }

    /// Reads series: one round of requests, and another if a record is longer than expected. `visit` gets each in the
    /// order of `ids` with its labels and chunks, and says whether to go on.
    pub(super) async fn series(
        &self,
        header: &IndexHeader,
        ids: &[u32],
        charge: &mut Charge,
        mut visit: impl FnMut(&mut Labels, &[ChunkMeta]) -> Result<bool> + Send,
    ) -> Result<()> {
        let most = if self.listed.series_max_size == 0 { SERIES_MAX } else { self.listed.series_max_size };
        // The largest of all is far from what most take.
        let guess = (self.average_series(header) * 4).max(SERIES_MIN).min(most);
        let section = header.series_section();
        let starts = ids.iter().map(|id| header.series_offset(SeriesId(*id)));
        let next = starts.clone().skip(1).chain([section.end]);
        let range =
            |(start, next): (u64, u64)| start..(start.saturating_add(guess)).min(next.max(start)).min(section.end);
        let mut pages = self.read_index(starts.zip(next).map(range)).await?;
        let longer: Vec<_> = ids
            .iter()
            .filter_map(|id| {
                let start = header.series_offset(SeriesId(*id));
                let len = IndexHeader::series_len(&pages.slice(start..start.saturating_add(16)))?;
                let end = start.checked_add(len).filter(|end| *end <= section.end && len <= SERIES_LONGEST)?;
                (len > pages.available(start, len)).then_some(start..end)
            })
            .collect();
        if !longer.is_empty() {
            pages.extend(self.read_index(longer).await?);
        }
        charge.add(pages.bytes())?;
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        for id in ids {
            let start = header.series_offset(SeriesId(*id));
            let len = IndexHeader::series_len(&pages.slice(start..start.saturating_add(16))).unwrap_or(0);
            let bytes = pages.slice(start..start.saturating_add(len).min(section.end));
            header.read_series(SeriesId(*id), &bytes, &mut labels, &mut chunks)?;
            if !visit(&mut labels, &chunks)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether any series passes `matchers`.
    pub(super) async fn has_any(&self, matchers: &[Matcher], budget: &Budget) -> Result<bool> {
        let header = self.header().await?;
        if matchers.is_empty() {
            return Ok(header.label_names().next().is_some());
        }
        let mut charge = Charge::new(budget);
        let selected = self.select(&header, matchers, &mut charge).await?;
        if selected.late.is_empty() {
            return Ok(!selected.ids.is_empty());
        }
        let mut any = false;
        self.series(&header, &selected.ids, &mut charge, |labels, _| {
            any |= passes(&selected.late, labels);
            Ok(!any)
        })
        .await?;
        Ok(any)
    }

    /// The names of the labels that the series passing `matchers` have, or of all; sorted.
    pub(super) async fn label_names(&self, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        let header = self.header().await?;
        if matchers.is_empty() {
            return Ok(header.label_names().map(str::to_owned).collect());
        }
        let mut charge = Charge::new(budget);
        let selected = self.select(&header, matchers, &mut charge).await?;
        let mut names = std::collections::BTreeSet::new();
        self.series(&header, &selected.ids, &mut charge, |labels, _| {
            if passes(&selected.late, labels) {
                for (name, _) in &*labels {
                    if !names.contains(name) {
                        names.insert(name.to_owned());
                    }
                }
            }
            Ok(true)
        })
        .await?;
        Ok(names.into_iter().collect())
    }

    /// The values of `name` that the series passing `matchers` have, or all; sorted.
    pub(super) async fn label_values(&self, name: &str, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        let header = self.header().await?;
        let (own, others): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|matcher| matcher.name() == name);
        let mut values = Vec::new();
        let mut places = Vec::new();
        header.list_places(name, "", |value, place| {
            if own.iter().all(|matcher| matcher.matches(value)) {
                values.push(value.to_owned());
                places.push(place);
            }
        })?;
        if others.is_empty() || values.is_empty() {
            return Ok(values);
        }
        let others: Vec<Matcher> = others.into_iter().cloned().collect();
        let mut charge = Charge::new(budget);
        let selected = self.select(&header, &others, &mut charge).await?;
        let by_series = (selected.ids.len() as u64).saturating_mul(self.average_series(&header));
        if selected.late.is_empty() && bytes_of(&places) <= by_series {
            let lists = self.lists(&header, &places, &mut charge).await?;
            let selected = Postings::from(selected.ids);
            let mut has =
                places.iter().map(|place| lists.get(&place.offset).is_some_and(|list| selected.intersects(list)));
            values.retain(|_| has.next().unwrap_or(false));
            return Ok(values);
        }
        let mut found = std::collections::BTreeSet::new();
        self.series(&header, &selected.ids, &mut charge, |labels, _| {
            if let Some(value) = labels.get(name)
                && !found.contains(value)
                && passes(&selected.late, labels)
            {
                found.insert(value.to_owned());
            }
            Ok(true)
        })
        .await?;
        values.retain(|value| found.contains(value));
        Ok(values)
    }
}

/// Whether a series passes the matchers.
pub(super) fn passes(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or("")))
}

fn bytes_of(places: &[ListPlace]) -> u64 {
    places.iter().map(|place| place.end.map_or(LIST_GUESS, |end| end - place.offset)).sum()
}

/// Learns which lists a matcher needs, without reading any. The lists that it answers with are not empty and share
/// nothing with that of all series, so no step is left out because the one before found nothing.
struct Plan<'a> {
    header: &'a IndexHeader,
    places: RefCell<Vec<ListPlace>>,
    /// Whether the list of all series was asked for.
    all: Cell<bool>,
}

impl<'a> Plan<'a> {
    fn new(header: &'a IndexHeader) -> Self {
        Self { header, places: RefCell::default(), all: Cell::new(false) }
    }
}

impl PostingsSource for Plan<'_> {
    fn all(&self) -> Result<Postings> {
        self.all.set(true);
        Ok(vec![0].into())
    }

    fn postings(&self, name: &str, value: &str) -> Result<Postings> {
        let Some(place) = self.header.list_place(name, value)? else { return Ok(Postings::empty()) };
        self.places.borrow_mut().push(place);
        Ok(vec![1].into())
    }

    fn postings_where(
        &self,
        name: &str,
        prefix: &str,
        keep: &mut dyn FnMut(&str) -> bool,
        take: &mut dyn FnMut(Postings),
    ) -> Result<()> {
        let mut any = false;
        self.header.list_places(name, prefix, |value, place| {
            if keep(value) {
                self.places.borrow_mut().push(place);
                any = true;
            }
        })?;
        if any {
            take(vec![1].into());
        }
        Ok(())
    }
}

/// The lists that were planned, now that they are here.
struct Fetched<'a> {
    header: &'a IndexHeader,
    lists: &'a FixedMap<u64, Postings>,
}

impl Fetched<'_> {
    fn list(&self, place: &ListPlace) -> Result<Postings> {
        let missing = || Error::new(ErrorKind::Unsupported, "a postings list was not planned for");
        self.lists.get(&place.offset).cloned().ok_or_else(missing)
    }
}

impl PostingsSource for Fetched<'_> {
    fn all(&self) -> Result<Postings> {
        self.postings("", "")
    }

    fn postings(&self, name: &str, value: &str) -> Result<Postings> {
        match self.header.list_place(name, value)? {
            Some(place) => self.list(&place),
            None => Ok(Postings::empty()),
        }
    }

    fn postings_where(
        &self,
        name: &str,
        prefix: &str,
        keep: &mut dyn FnMut(&str) -> bool,
        take: &mut dyn FnMut(Postings),
    ) -> Result<()> {
        let mut failed = None;
        self.header.list_places(name, prefix, |value, place| {
            if failed.is_none() && keep(value) {
                match self.list(&place) {
                    Ok(list) => take(list),
                    Err(error) => failed = Some(error),
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}
