//! A traced block's forward pass: lowered, priced, computed like any plan, and its numbers handed back.

use std::sync::Arc;

use mediant_worker::program::Program;

use super::{Refusal, Served, Service, Turn, required_runs};
use crate::capacity::{Lane, Share};
use crate::lower;
use crate::lower::program::LoweredProgram;
use crate::plan::cost::Ceiling;
use crate::plan::output::Usage;

/// What one program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Rows times layers that are left of what its job may have computed.
    pub row_layers: u64,
    /// Numbers read.
    pub numbers: u64,
}

/// What a program gives.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgramOutput {
    /// Of each read `[positions, width]`, row by row.
    pub values: Vec<Vec<f32>>,
    /// What it cost.
    pub usage: Usage,
}

impl Service {
    /// Computes a program of a job of the share's owner, who takes turns with the other owners. It waits where a request would
    /// be refused: its job was let in.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn program(
        &self,
        program: Program,
        limits: ProgramLimits,
        share: &Share,
    ) -> Result<ProgramOutput, Refusal> {
        let ceiling = Ceiling { row_layers: self.ceiling.row_layers.min(limits.row_layers), ..self.ceiling };
        let priced = Self { ceiling, ..self.clone() };
        let (service, owner, fresh) = (priced.clone(), share.owner().clone(), share.wants_fresh());
        // Lowered and made ready in one go: to hand it to a thread and back takes longer than either.
        let ordered = self.off_workers(share, Lane::Prepare, move |facts, _| {
            let LoweredProgram { plan, reads } = lower::program::program(program, limits.numbers, facts)?;
            Ok((service.order(facts, &owner, fresh, None, plan)?, reads))
        });
        let (ordered, reads) = ordered.await?;
        let output = priced.compute_ordered(Turn::Next, share, 0, ordered).await?.output;
        required_runs::none(&output)?;
        Ok(ProgramOutput { values: reads.values(output.captures), usage: output.usage })
    }

    /// Token ids of texts of a block; `special`: with what the tokenizer puts around them by itself.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub async fn tokens_of(
        &self,
        texts: Vec<String>,
        special: bool,
        share: &Share,
    ) -> Result<Vec<Vec<u32>>, String> {
        self.with_words(share, move |served| {
            let (bytes, most): (usize, u64) =
                (texts.iter().map(String::len).sum(), served.limits.prompt_bytes);
            if bytes as u64 > most {
                return Err(format!(
                    "the texts have {bytes} bytes, the limit is {most} (limits.prompt_bytes)"
                ));
            }
            let bos = (!special).then_some(false);
            let ids = texts
                .iter()
                .map(|text| served.tokenizer.encode(text, bos).map(|encoded| encoded.ids.to_vec()));
            ids.collect::<Result<_, _>>().map_err(|error| error.to_string())
        })
        .await
    }

    /// Texts of token ids; `skip_special`: without special tokens.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub async fn texts_of(
        &self,
        rows: Vec<Vec<u32>>,
        skip_special: bool,
        share: &Share,
    ) -> Result<Vec<String>, String> {
        self.with_words(share, move |served| {
            let texts = rows.iter().map(|ids| served.tokenizer.text_of(ids, skip_special));
            texts.collect::<Result<_, _>>().map_err(|error| error.to_string())
        })
        .await
    }

    /// Does what needs the tokenizer off the async workers.
    async fn with_words<T: Send + 'static>(
        &self,
        share: &Share,
        f: impl FnOnce(&Served) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let served = Arc::clone(&self.served);
        share.run(Lane::Prepare, move |_| f(&served)).await
    }
}
