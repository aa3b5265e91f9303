//! What units gave, and the files of results.

use super::error::StoreError;
use super::job::{File, JobId};
use super::row::hold;
use super::sql::{Row, Tx, args};
use super::{Store, checksum};

/// Units read at a time by [`Store::outputs`].
const AT_ONCE: u32 = 256;

impl Store {
    /// What the units of a job gave that are done, by number, all of them in memory. The unit that puts the result together
    /// is not among them.
    pub async fn outputs(&self, id: JobId) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
        loop {
            let from = all.last().map_or(0, |(seq, _)| seq + 1);
            let some = self.outputs_from(id, from, AT_ONCE).await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }

    /// The first `limit` of [`Store::outputs`] whose number is at least `from`. What is done stays as it is, so that a job is
    /// read in parts, each from the number after the last.
    pub async fn outputs_from(
        &self,
        id: JobId,
        from: u32,
        limit: u32,
    ) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let sql = "select output.seq, output.bytes, output.sha256 from output join job on job.id = output.job \
                   where output.job = $1 and output.seq >= $2 and output.seq < job.units_0 + job.units_1 \
                   order by output.seq limit $3";
        let rows = self.read().await?.rows(sql, args![id, from, limit]).await?;
        rows.iter().map(|row| Ok((row.count(0)?, self.verified(row, id, row.count(0)?)?))).collect()
    }

    /// What one unit gave, if it is done.
    pub async fn output(&self, id: JobId, seq: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "select seq, bytes, sha256 from output where job = $1 and seq = $2";
        let row = self.read().await?.row(sql, args![id, seq]).await?;
        row.map(|row| self.verified(&row, id, seq)).transpose()
    }

    /// The bytes in the second column, whose checksum is in the third.
    fn verified(&self, row: &Row, id: JobId, seq: u32) -> Result<Vec<u8>, StoreError> {
        let bytes: Vec<u8> = row.get(1)?;
        let sha256: Option<Vec<u8>> = row.get(2)?;
        let what = format_args!("the output of unit {seq} of {id}");
        checksum::verify(&self.0.place, &what, sha256.as_deref(), &[&bytes])?;
        Ok(bytes)
    }

    /// Stores the files of a result in place of those it had: of what a cancelled or failed job leaves. Whether the job is
    /// still there to have them.
    pub async fn put_files(&self, id: JobId, files: &[File]) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let stored = hold(&mut tx, id).await?;
        if stored.is_none_or(|stored| stored.job.state == super::job::State::Expired) {
            return Ok(false);
        }
        replace_files(&mut tx, id, files).await?;
        self.publish(tx).await?;
        Ok(true)
    }

    /// A file of a job's result.
    pub async fn file(&self, id: JobId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "select bytes from file where job = $1 and name = $2";
        let row = self.read().await?.row(sql, args![id, name]).await?;
        row.map(|row| row.get(0)).transpose()
    }

    /// Names of the files of a job's result.
    pub async fn files(&self, id: JobId) -> Result<Vec<String>, StoreError> {
        let sql = "select name from file where job = $1 order by name";
        let rows = self.read().await?.rows(sql, args![id]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Puts these files in place of those that a held job has.
pub(super) async fn replace_files(tx: &mut Tx, id: JobId, files: &[File]) -> Result<(), StoreError> {
    tx.run("delete from file where job = $1", args![id]).await?;
    for file in files {
        let sql = "insert into file (job, name, bytes) values ($1, $2, $3)";
        tx.run(sql, args![id, &file.name, &file.bytes]).await?;
    }
    Ok(())
}
