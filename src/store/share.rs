//! Whose turn it is: owners have clocks that run by the work claimed for them, divided by its weight, and the lowest is next.
//! An owner that was away comes back at the lowest clock of those who have work, so that being away earns nothing.

use super::error::StoreError;
use super::job::Job;
use super::sql::{Tx, args};

/// Microseconds by which a unit of a job moves its owner's clock.
pub fn turn(job: &Job) -> i64 {
    let unit_s = job.estimate_s / f64::from(job.units_total().max(1));
    // Hundredths; nothing is for nothing, and sums stay far from the end of the numbers.
    ((unit_s * 1e8 / job.weight.max(1) as f64) as i64).clamp(1, 1 << 40)
}

/// Charges a unit that is claimed. The job's row is held.
pub(super) async fn charge(tx: &mut Tx, job: &Job) -> Result<(), StoreError> {
    let sql = "insert into share (owner, clock) values ($1, $2) \
               on conflict (owner) do update set clock = share.clock + excluded.clock";
    tx.run(sql, args![&job.owner, turn(job)]).await?;
    Ok(())
}

/// Sets the clock of an owner who is about to have work, if it has none. Where nobody else has, all begin anew together.
pub(super) async fn join(tx: &mut Tx, owner: &str) -> Result<(), StoreError> {
    let sql = "select 1 from job where owner = $1 and state in ('queued', 'running') limit 1";
    if tx.row(sql, args![owner]).await?.is_some() {
        return Ok(());
    }
    let sql = tx.pick(
        "insert into share (owner, clock) select $1, coalesce(min(clock), (select max(clock) from share), 0) from share \
         where owner in (select owner from job where state in ('queued', 'running')) \
         on conflict (owner) do update set clock = max(share.clock, excluded.clock)",
        "insert into share (owner, clock) select $1, coalesce(min(clock), (select max(clock) from share), 0) from share \
         where owner in (select owner from job where state in ('queued', 'running')) \
         on conflict (owner) do update set clock = greatest(share.clock, excluded.clock)",
    );
    tx.run(sql, args![owner]).await?;
    Ok(())
}
