//! How long a claim takes. Run on an idle machine: `cargo test --release --test jobs -- --ignored --nocapture speed`.

use std::time::{Duration, Instant};

use mediant::store::Store;

use crate::support::{AHEAD, Db, commit, job, submit};

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |q: usize| times[(times.len() - 1) * q / 100].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(50), at(99), at(100))
}

async fn timed(store: &Store, what: &str) {
    let (mut claims, mut commits) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let begun = Instant::now();
        let unit = crate::support::claim(store).await;
        claims.push(begun.elapsed());
        let begun = Instant::now();
        commit(store, &unit).await;
        commits.push(begun.elapsed());
    }
    println!("{what}: claim {}; commit {}", quantiles(claims), quantiles(commits));
}

both! {
    #[ignore = "a measurement"]
    async fn claims_stay_fast(db: Db) {
        let name = if db.is_postgres() { "PostgreSQL" } else { "SQLite" };
        let store = db.open().await;
        let begun = Instant::now();
        submit(&store, job([0, 100_000, 1])).await;
        println!("{name}: submitting 100,000 units took {:?}", begun.elapsed());
        timed(&store, &format!("{name}, one job of 100,000 units")).await;
        for i in 0..1000 {
            let mut new = job([0, 100, 1]);
            new.owner = format!("owner {}", i % 30);
            new.request = format!("\"{}\"", "x".repeat(20_000));
            submit(&store, new).await;
        }
        timed(&store, &format!("{name}, and 1000 more jobs of 30 owners")).await;
        let begun = Instant::now();
        for _ in 0..100 {
            assert!(store.claim("another", AHEAD).await.unwrap().is_none());
        }
        println!("{name}: asking in vain {:.2} ms", begun.elapsed().as_secs_f64() * 10.0);
    }
}
