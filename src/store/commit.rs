//! Storing what a unit gave.

use super::error::StoreError;
use super::job::{Charged, Claim, Committed, Done, State};
use super::outputs::replace_files;
use super::row::{append, end, hold};
use super::sql::args;
use super::usage::{KeyUsage, OwnerUsage, add, add_to_key};
use super::{Store, checksum, wall_clock};

const DAY_MS: i64 = 86_400_000;

impl Store {
    /// Stores what a unit gave, counts it and charges it to its owner, all or nothing. With its last unit the job has succeeded. Saying the same
    /// commit again, because the answer to the first got lost, counts nothing twice.
    pub async fn commit(&self, claim: &Claim, done: Done) -> Result<Committed, StoreError> {
        let id = claim.job.id;
        let mut tx = self.write().await?;
        let Some(stored) = hold(&mut tx, id).await? else { return Ok(Committed::Stale) };
        let sql = "delete from unit where job = $1 and seq = $2 and token = $3";
        if tx.run(sql, args![id, claim.seq, claim.token]).await? == 0 {
            let sql = "select 1 from output where job = $1 and seq = $2 and token = $3 limit 1";
            let said = tx.rows(sql, args![id, claim.seq, claim.token]).await?;
            let units_done = stored.job.units_done;
            return Ok(if said.is_empty() { Committed::Stale } else { Committed::Counted { units_done } });
        }
        // Not an upsert: a second output of a unit would be a mistake, and is refused.
        let sql = "insert into output (job, seq, token, bytes, sha256) values ($1, $2, $3, $4, $5)";
        let sha256 = checksum::of(&[&done.output]);
        tx.run(sql, args![id, claim.seq, claim.token, &done.output, &sha256]).await?;
        let sql = "update job set units_done = units_done + 1, open_units = $2, cost_rows = cost_rows + $3, \
                   cost_row_layers = cost_row_layers + $4, cost_seconds = cost_seconds + $5, \
                   cost_peak_bytes = case when cost_peak_bytes < $6 then $6 else cost_peak_bytes end where id = $1";
        let units_done = stored.job.units_done + 1;
        let open = open_units(stored.job.units, units_done);
        let cost = done.cost;
        tx.run(sql, args![id, open, cost.rows, cost.row_layers, cost.seconds, cost.peak_bytes]).await?;
        let Charged { row_layers, seconds } = done.charged;
        if done.charged != Charged::default() {
            let owner = stored.job.owner.clone();
            let used = OwnerUsage { owner, day: wall_clock() / DAY_MS, requests: 0, row_layers, seconds };
            add(&mut tx, &used).await?;
            if let Some(key) = stored.job.key {
                let used = KeyUsage { key, day: used.day, requests: 0, row_layers, seconds };
                add_to_key(&mut tx, &used).await?;
            }
        }
        let total = stored.job.units_total();
        let progress = format!(r#"{{"units_done":{units_done},"units_total":{total}}}"#);
        append(&mut tx, id, "progress", &progress).await?;
        if !done.files.is_empty() {
            replace_files(&mut tx, id, &done.files).await?;
        }
        if units_done == total {
            end(&mut tx, id, State::Succeeded, None).await?;
        }
        self.publish(tx).await?;
        Ok(Committed::Counted { units_done })
    }
}

/// Units below this number may be claimed when so many are done: those of the first phase that is not done, and before it.
fn open_units(units: [u32; 3], done: u32) -> u32 {
    let mut end = 0;
    for phase in units {
        end += phase;
        if done < end {
            return end;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_opens_when_the_one_before_is_done() {
        let open = |done| open_units([2, 3, 1], done);
        assert_eq!([0, 1, 2, 4, 5, 6].map(open), [2, 2, 5, 5, 6, 6]);
        assert_eq!(open_units([0, 3, 0], 0), 3, "phases without units are passed over");
    }
}
