/** 断号之上最多记多少个 seq；再多就不记，代价只是重连时多收几条重复的。 */
const MAX_SEQS_ABOVE = 4096;

/** 能向服务器声称的位置：在 `epoch` 里，seq ≤ `last_seq` 的都已应用。 */
export class Position {
  #epoch = null;
  #floor = 0;
  #above = new Set();
  /** 连接时的积压推到这个 seq 为止；null 表示已推完。积压按优先级在前，所以 seq 不按次序来。 */
  #flushUpto = null;
  #flushSize = null;
  /** 第一批积压推完之前，没有任何位置可以声称。 */
  #known = false;

  get claim() {
    return this.#known ? { epoch: this.#epoch, last_seq: this.#floor } : null;
  }

  forget() {
    this.#known = false;
  }

  opened({ epoch, seq, resumed, pending }) {
    if (!resumed) this.#restart(0, false);
    this.#epoch = epoch;
    this.#flushUpto = seq;
    this.#flushSize = resumed ? null : pending; // 续传时 pending 不含记录里补来的
    this.#endFlushIfComplete();
  }

  applied(seq) {
    if (this.#flushUpto !== null && seq > this.#flushUpto) this.#endFlush();
    if (seq > this.#floor && this.#above.size < MAX_SEQS_ABOVE) this.#above.add(seq);
    this.#raise(this.#floor);
    this.#endFlushIfComplete();
  }

  /** 服务器宣告这一段不会再来。 */
  gap({ from_seq, to_seq }) {
    if (from_seq <= this.#floor + 1) this.#raise(to_seq);
  }

  /** 位置作废。紧跟 welcome 的那一个等积压推完才算数，否则会把没应用的说成已应用。 */
  resynced({ epoch, seq }) {
    if (this.#flushUpto !== null && epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.#restart(seq, true);
  }

  #restart(floor, known) {
    this.#floor = floor;
    this.#known = known;
    this.#flushUpto = null;
    this.#above.clear();
  }

  #endFlushIfComplete() {
    // 没有续传时从 0 数起：floor 与 above 合起来正是不重复的条数
    const complete = this.#flushSize !== null && this.#floor + this.#above.size >= this.#flushSize;
    if (this.#flushUpto !== null && complete) this.#endFlush();
  }

  #endFlush() {
    const upto = this.#flushUpto;
    this.#flushUpto = null;
    this.#known = true;
    this.#raise(upto);
  }

  #raise(floor) {
    if (floor > this.#floor) {
      this.#floor = floor;
      for (const seq of this.#above) if (seq <= floor) this.#above.delete(seq);
    }
    while (this.#above.delete(this.#floor + 1)) this.#floor += 1;
  }
}
