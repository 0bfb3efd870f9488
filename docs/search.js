// Search takes "-" before a word for "without": a flag such as --max-seeds would find nothing. Words
// lose it on their way to the worker that searches.
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...more) {
  if (typeof message?.data === "string") {
    message = { ...message, data: message.data.replace(/(^|\s)-+(?=\w)/g, "$1") };
  }
  return post.call(this, message, ...more);
};
