/** What finetuning makes small, over the positions of one window. */
export interface WindowLoss {
  /** mean KL(teacher || student) of the next-token distributions, nats */
  readonly kl: number;
  /** mean -ln p of the tokens that follow, by the student, nats */
  readonly student: number;
  /** the same by the teacher */
  readonly teacher: number;
}

/**
 * KL + languageWeight * (mean -ln p of the next token), and its gradient.
 * @param teacher logits [n, vocabSize] @param student likewise @param ids of the window, n of them
 * @returns dLogits of the student, [n, vocabSize]
 */
export function tuningLoss(
  teacher: Float32Array,
  student: Float32Array,
  ids: Int32Array,
  languageWeight: number,
): WindowLoss & { readonly dLogits: Float32Array } {
  const n = ids.length;
  const size = student.length / n;
  const dLogits = new Float32Array(student.length);
  const sums = { kl: 0, student: 0, teacher: 0 };
  for (let i = 0; i < n; i++) {
    const [p, q] = [teacher, student].map((logits) => logits.subarray(i * size, (i + 1) * size));
    const [pSum, qSum] = [logSumExp(p), logSumExp(q)];
    const d = dLogits.subarray(i * size, (i + 1) * size);
    const isScored = i + 1 < n;
    const weight = isScored ? languageWeight / (n - 1) : 0;
    for (let c = 0; c < size; c++) {
      const [logP, logQ] = [p[c] - pSum, q[c] - qSum];
      const [pc, qc] = [Math.exp(logP), Math.exp(logQ)];
      sums.kl += pc * (logP - logQ);
      d[c] = (qc - pc) / n + weight * qc;
    }
    if (!isScored) continue;
    d[ids[i + 1]] -= weight;
    sums.student += qSum - q[ids[i + 1]];
    sums.teacher += pSum - p[ids[i + 1]];
  }
  const scored = Math.max(1, n - 1);
  return {
    kl: sums.kl / n,
    student: sums.student / scored,
    teacher: sums.teacher / scored,
    dLogits,
  };
}

function logSumExp(logits: Float32Array): number {
  let max = -Infinity;
  for (let c = 0; c < logits.length; c++) max = Math.max(max, logits[c]);
  let sum = 0;
  for (let c = 0; c < logits.length; c++) sum += Math.exp(logits[c] - max);
  return max + Math.log(sum);
}
