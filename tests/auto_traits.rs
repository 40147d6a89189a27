//! What programs may share between threads and move to others: a promise that the compiler keeps, and that a field of
//! another type could break without anybody noticing.

use narthex::bucket::{BlockList, Bucket, BucketSource, RangeCache, Shipper};
use narthex::{
    Appender, Budget, Db, DbSource, Engine, Error, Exemplar, FloatHistogram, Histogram, Labels, Matcher, Metadata,
    Options, QueryResult, ReadOnlyDb, Sample, Series, SeriesDecoder, SeriesRef, SeriesSet, Source, Status,
};

const fn shared<T: Send + Sync + ?Sized>() {}
const fn moved<T: Send + ?Sized>() {}

const _: () = {
    shared::<Db>();
    shared::<ReadOnlyDb>();
    shared::<DbSource>();
    shared::<dyn Source>();
    shared::<Engine>();
    shared::<QueryResult>();
    shared::<Options>();
    shared::<Status>();
    shared::<Budget>();
    shared::<Error>();
    shared::<Labels>();
    shared::<Matcher>();
    shared::<Sample>();
    shared::<Histogram>();
    shared::<FloatHistogram>();
    shared::<Exemplar>();
    shared::<Metadata>();
    shared::<Series>();
    shared::<SeriesRef>();
    shared::<Bucket>();
    shared::<BlockList>();
    shared::<BucketSource>();
    shared::<RangeCache>();
    shared::<Shipper>();
    moved::<Appender>();
    moved::<dyn SeriesSet>();
    moved::<SeriesDecoder>();
};

#[test]
fn clones_of_a_database_work_side_by_side() {
    let (env, _machine) = narthex::fs::Env::simulated(1);
    let db = Db::open_with(&env, std::path::Path::new("data"), Options::default()).expect("an empty directory opens");
    let now = env.clock.now_ms();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let db = db.clone();
            scope.spawn(move || {
                let mut appender = db.appender();
                let labels = Labels::from_pairs([("n", n.to_string())]);
                appender.append(None, &labels, now, f64::from(n)).expect("a new series takes a sample");
                appender.commit().expect("nothing fails on this machine");
            });
        }
    });
    assert_eq!(db.head().series_count(), 4);
}
