//! Stored sets of cases.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::job::Dataset;
use super::sql::{Row, args};
use super::{Store, wall_clock};

/// The columns that [`read`] reads, in its order.
macro_rules! columns {
    () => {
        "id, owner, name, sha256, cases, bytes, created_ms"
    };
}

impl Store {
    /// Stores a set of cases, given as its canonical text, and whether it is new: an owner has equal sets once, under the
    /// name they first got.
    pub async fn put_dataset(
        &self,
        owner: &str,
        name: Option<&str>,
        cases: u32,
        text: &str,
    ) -> Result<(Dataset, bool), StoreError> {
        let sha256 = sha256(text);
        let id = format!("ds_{}", &sha256[..32]);
        let mut tx = self.write_asked().await?;
        let sql = "insert into dataset (owner, id, name, sha256, cases, bytes, created_ms, content) \
                   values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (owner, id) do nothing";
        let bytes = text.len() as u64;
        let args = args![owner, &id, name, &sha256, cases, bytes, wall_clock(), text.as_bytes()];
        let new = tx.run(sql, args).await? > 0;
        let sql = concat!("select ", columns!(), " from dataset where owner = $1 and id = $2");
        let row = tx.row(sql, args![owner, &id]).await?.ok_or_else(|| tx.lost_row())?;
        let dataset = read(&row)?;
        tx.commit().await?;
        Ok((dataset, new))
    }

    /// A set of an owner, without its cases.
    pub async fn dataset(&self, owner: &str, id: &str) -> Result<Option<Dataset>, StoreError> {
        let sql = concat!("select ", columns!(), " from dataset where owner = $1 and id = $2");
        let row = self.read().await?.row(sql, args![owner, id]).await?;
        row.map(|row| read(&row)).transpose()
    }

    /// The canonical text of a set of an owner.
    pub async fn dataset_text(&self, owner: &str, id: &str) -> Result<Option<String>, StoreError> {
        let sql = "select content, sha256 from dataset where owner = $1 and id = $2";
        let row = self.read().await?.row(sql, args![owner, id]).await?;
        let Some(row) = row else { return Ok(None) };
        let (bytes, sha256): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
        let text = String::from_utf8(bytes).ok().filter(|text| self::sha256(text) == sha256);
        let damaged = || self.0.place.corrupt(format!("the text of the dataset {id} is not what was stored"));
        text.map(Some).ok_or_else(damaged)
    }

    /// Sets of an owner, newest first, without their cases.
    pub async fn datasets(&self, owner: &str) -> Result<Vec<Dataset>, StoreError> {
        let sql =
            concat!("select ", columns!(), " from dataset where owner = $1 order by created_ms desc, id");
        let rows = self.read().await?.rows(sql, args![owner]).await?;
        rows.iter().map(read).collect()
    }

    /// Forgets a set of an owner; whether there was one. Jobs have the cases written out in their requests.
    pub async fn delete_dataset(&self, owner: &str, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write_asked().await?;
        let deleted = tx.run("delete from dataset where owner = $1 and id = $2", args![owner, id]).await?;
        tx.commit().await?;
        Ok(deleted > 0)
    }
}

/// In lower-case hex.
fn sha256(text: &str) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(text) {
        write!(hex, "{byte:02x}").expect("BUG: writing to a string cannot fail");
    }
    hex
}

fn read(row: &Row) -> Result<Dataset, StoreError> {
    Ok(Dataset {
        id: row.get(0)?,
        owner: row.get(1)?,
        name: row.get(2)?,
        sha256: row.get(3)?,
        cases: row.count(4)?,
        bytes: u64::try_from(row.get::<i64>(5)?).unwrap_or_default(),
        created_ms: row.get(6)?,
    })
}
